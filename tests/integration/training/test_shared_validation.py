"""Processes that share a validation come to the points of one process, and none waits for one that has failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multitask_trainer.runtime.distributed import SHUTDOWN_TIMEOUT
from support.training_fixtures import TrainingSuite, base_parameters, train_parameters

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).with_name("shared_validation.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """File name → what the program left in it."""
    suite = TrainingSuite(
        tmp_path_factory.mktemp("suite"), train=100, others=500
    )  # two batches: the third process has none
    assert suite.run_here(suite.order("base", base_parameters())) is None
    order = suite.order("baseline/kind", train_parameters("baseline", max_steps=10))
    folder = tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(order)],
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_have_the_points_of_one_to_the_last_bit(results, processes):
    of_one = results["1-0"]
    assert len({tuple(point) for point in of_one["points"].values()}) == 3
    shares = [results[f"{processes}-{rank}"] for rank in range(processes)]
    for share in shares:
        assert share["points"] == of_one["points"]
    rows = [share["rows"] for share in shares]
    assert sum(rows) == of_one["rows"] == 972
    assert all(0 < count < 972 for count in rows)


def test_the_failure_of_one_process_is_that_of_the_stage_and_no_process_waits(results):
    assert results["statuses"] == [2, 2, 2]
    failure = results["failure"]
    assert (failure["kind"], failure["message"]) == ("UserError", "a row cannot be read")
    assert failure["seconds"] < SHUTDOWN_TIMEOUT / 2
