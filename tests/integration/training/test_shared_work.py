"""Processes that share validations and answers come to the results of one, and none waits for one that has failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multitask_api.stage_io.parameters import EvaluateParameters
from multitask_trainer.runtime.distributed import SHUTDOWN_TIMEOUT
from support.evaluation_fixtures import GROUPS, suite_of
from support.training_fixtures import TrainingSuite, base_parameters, optimisation, train_parameters

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).with_name("shared_work.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program left."""
    training = TrainingSuite(
        tmp_path_factory.mktemp("training"), train=100, others=500
    )  # two batches: one has no share
    assert training.run_here(training.order("base", base_parameters())) is None
    parameters = train_parameters("baseline", max_steps=2, optimisation=optimisation(eval_every=2))
    orders = [training.order("baseline/kind", parameters)]
    evaluation = suite_of(tmp_path_factory.mktemp("evaluation"), "LoRA")
    for group, tasks in GROUPS.items():
        parameters = EvaluateParameters(group=group, tasks=tasks, threshold=0.99, rule="Point", seed=1)
        order = evaluation.stage(f"evaluate/{group}", "evaluate", parameters).order
        orders.append(evaluation.root / f"{group}.json")
        orders[-1].write_text(order.model_dump_json(by_alias=True))
    results = tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(results), *map(str, orders)],
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parents[2])},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return results


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_have_the_points_of_one_to_the_last_bit(folder: Path, processes: int) -> None:
    of_one = read(folder / "1-0.json")
    assert len({tuple(point) for point in of_one["points"].values()}) == 3
    shares = [read(folder / f"{processes}-{rank}.json") for rank in range(processes)]
    for share in shares:
        assert share["points"] == of_one["points"]
    rows = [share["rows"] for share in shares]
    assert sum(rows) == of_one["rows"] == 972
    assert all(0 < count < 972 for count in rows)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("group", list(GROUPS))
def test_several_processes_leave_the_answers_and_verdicts_of_one(folder: Path, group: str, processes: int) -> None:
    """A text is one batch here: then the other processes have no share."""
    one, several = (folder / "evaluate" / f"{group}-{number}" for number in (1, processes))
    for task in GROUPS[group]:
        name = f"answers/{task.name}.parquet"
        assert (several / name).read_bytes() == (one / name).read_bytes()
    assert read(several / "manifest.json")["result"] == read(one / "manifest.json")["result"]


@pytest.mark.parametrize("kind", ["baseline", "evaluate"])
def test_the_failure_of_one_process_is_that_of_the_stage_and_no_process_waits(folder: Path, kind: str) -> None:
    ends = read(folder / "ends.json")
    assert ends["statuses"][kind] == [2, 2, 2]
    assert read(folder / f"{kind}.json") == {"kind": "UserError", "message": "a row cannot be read"}
    assert ends["seconds"][kind] < SHUTDOWN_TIMEOUT
