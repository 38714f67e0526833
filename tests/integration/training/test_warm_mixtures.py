"""The stage ``mixture`` with an earlier mixture as its input, run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import StageOrder
from multitask_api.stage_io.mixture_start import MixtureStart
from multitask_api.stage_io.results import TrainResult
from multitask_api.stages.warm_start import FORM, weights_form
from support.training_fixtures import TrainingSuite, base_parameters, optimisation, train_parameters

pytestmark = pytest.mark.integration

CGC = Tuning(method="CGCLoRA", rank=6).for_group(["kind", "repeat"])


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    training_suite = TrainingSuite(tmp_path_factory.mktemp("suite"), train=100, others=20)
    assert training_suite.run_here(training_suite.order("base", base_parameters())) is None
    return training_suite


def result(suite, stage):
    return TrainResult.model_validate(suite.manifest(stage).result)


def begin_with(suite, order: Path, earlier: str) -> Path:
    """The order of a mixture with an earlier mixture as its input."""
    read = StageOrder.model_validate_json(order.read_text())
    inputs = {**read.inputs, read.stage: str(suite.artifact(earlier))}
    order.write_text(read.model_copy(update={"inputs": inputs}).model_dump_json(by_alias=True))
    return order


@pytest.mark.parametrize("tuning", [Tuning(method="Full"), Tuning(method="LoRA", rank=4), CGC])
def test_a_mixture_begins_with_an_earlier_one_as_it_is_and_records_it(suite, tuning):
    """With a learning rate of next to nothing a task answers as before, also beside a task that was added."""
    names = [f"mixture/{place}-{tuning.method}" for place in ("first", "second", "third")]
    frozen = {"optimisation": optimisation(learning_rate=1e-12), "max_steps": 2}
    for place, name in enumerate(names):
        tasks, more = (["kind", "repeat"], frozen) if place else (["repeat"], {"max_steps": 20})
        reads = {f"prepare/{task}#train": "0" * 12 for task in tasks}
        order = suite.order(name, train_parameters("mixture", tasks, tuning=tuning, **more), read_outputs=reads)
        assert suite.run_here(begin_with(suite, order, names[place - 1]) if place else order) is None
    first, second, third = (result(suite, name) for name in names)
    for later in (second, third):
        assert later.validation["repeat"].loss == pytest.approx(first.validation["repeat"].loss, rel=1e-5)
    assert first.start is None
    assert second.start == MixtureStart(digest="0" * 12, tasks=("repeat",), rows_given={"repeat": 320})
    assert third.start.tasks == ("kind", "repeat")
    assert third.start.rows_given == {
        "kind": second.rows_given["kind"],
        "repeat": 320 + second.rows_given["repeat"],
    }
    assert suite.manifest(names[1]).outputs[FORM] == weights_form(tuning)
