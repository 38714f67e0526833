"""What a training run reports to the user's experiment trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multitask_api.errors import InvalidResource
from multitask_api.resource.parsing import check
from multitask_api.stage_io.results import TaskPoint, TrainResult
from multitask_trainer.data.fingerprints import HashCache
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.runtime import packages
from multitask_trainer.runtime.tracking import Tracking
from multitask_trainer.stages.resolve import resolve
from support.simulated_stages import document
from support.training_fixtures import TrainingSuite, base_parameters, train_parameters

STAGE = "mixture/all"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> TrainingSuite:
    suite = TrainingSuite(tmp_path_factory.mktemp("suite"), train=40, others=10)
    assert suite.run_here(suite.order("base", base_parameters())) is None
    return suite


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def train(suite: TrainingSuite, **changes: Any) -> Any:
    parameters = train_parameters("mixture", ("kind", "repeat"), max_steps=20)
    return suite.run_here(suite.order(STAGE, parameters, **changes))


@pytest.mark.parametrize("is_configured", [False, True], ids=["beside the weights", "in a folder of the user's"])
def test_tensorboard_gets_the_figures_of_the_result(
    suite: TrainingSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    output = tmp_path / "artifact"
    if is_configured:
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    work = str(tmp_path / "work")
    assert train(suite, report_to=("TensorBoard",), output=str(output), work=work, digest="1" * 12) is None
    own = output / "tensorboard"
    assert own.is_dir() is not is_configured
    found = curves(tmp_path / "logs" / "toy" / STAGE / ("1" * 12) if is_configured else own)
    result = TrainResult.model_validate(json.loads((output / "manifest.json").read_text())["result"])
    for task in ("kind", "repeat"):
        steps, scores = zip(*found[f"eval/{task}/score"], strict=True)
        assert steps == tuple(point.step for point in result.curve)
        assert scores == pytest.approx([point.tasks[task].score for point in result.curve])
    assert found["train/loss"][-1][0] == found["train/learning_rate"][-1][0] == result.steps
    rates = [rate for _, rate in found["train/learning_rate"]]
    assert max(rates) == pytest.approx(3e-3)
    assert rates[-1] < max(rates), "the last step is at the end of the decay"


def test_a_tracker_whose_package_is_missing_is_refused_before_anything_is_read_or_trained(
    suite: TrainingSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(packages.TRACKERS, "WandB", "a_package_that_is_missing")
    expected = (
        "training.reportTo: WandB needs the Python package a_package_that_is_missing, which is not installed where this"
        " model trains; install it there, in a cluster in the trainer image, or remove it"
    )
    spec = check(document(training={"reportTo": ["TensorBoard", "WandB"]})).spec
    resolved = resolve(spec, DataLocations(tmp_path, {}), HashCache(None))
    assert [problem for problem in resolved.problems if "reportTo" in problem] == [f"spec.{expected}"]
    failure = train(suite, report_to=("WandB",))
    assert failure is not None
    assert (failure.kind, failure.message) == ("UserError", expected)


class Recorder:
    name = "recorder"

    def __init__(self, *, works: bool) -> None:
        self.values: list[tuple[dict[str, float], int]] = []
        self.works, self.is_finished = works, False

    def log(self, values: dict[str, float], step: int) -> None:
        if not self.works:
            raise ConnectionError("unreachable")
        self.values.append((values, step))

    def finish(self) -> None:
        self.is_finished = True


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    broken, sound = Recorder(works=False), Recorder(works=True)
    both = Tracking([broken, sound])  # type: ignore[list-item]
    both.log_training(3, loss=2.0, rate=0.1, tokens_per_second=None)
    both.log_validation(4, {"kind": TaskPoint(loss=1.0, score=0.5)})
    both.finish()
    assert sound.values == [
        ({"train/loss": 2.0, "train/learning_rate": 0.1}, 3),
        ({"eval/kind/loss": 1.0, "eval/kind/score": 0.5}, 4),
    ]
    assert (broken.is_finished, sound.is_finished) == (False, True)
    assert capsys.readouterr().err.splitlines() == ["recorder is left out from here on: ConnectionError: unreachable"]


def test_a_tracker_is_named_once() -> None:
    with pytest.raises(InvalidResource, match=r"spec.training.reportTo: WandB occurs more than once"):
        check(document(training={"reportTo": ["WandB", "MLflow", "WandB"]}))
