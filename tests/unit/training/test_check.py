"""The stage that trains a task with and without the tasks that are said to hurt it."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.affinity import CheckResult
from multitask_api.stage_io.manifest import ROWS_FOLDER
from multitask_api.stage_io.parameters import CheckParameters
from multitask_trainer.stages import check
from multitask_trainer.stages.check import run_parameters
from support.training_fixtures import TASKS, TrainingSuite, base_parameters, optimisation


def parameters(**changes: object) -> CheckParameters:
    settings: dict[str, object] = {
        "task": "kind",
        "without": ("repeat",),
        "tasks": tuple(TASKS.values()),
        "probabilities": {"kind": 0.75, "repeat": 0.25},
        "max_steps": 40,
        "optimisation": optimisation(warmup_steps=100),
        "tuning": Tuning(method="Full"),
    }
    return CheckParameters.model_validate(settings | changes)


def test_both_runs_give_the_tasks_that_are_left_as_many_rows():
    together, apart = (run_parameters(parameters(), without) for without in ((), ("repeat",)))
    assert (together.max_steps, apart.max_steps) == (40, 30)
    assert together.probabilities == {"kind": 0.75, "repeat": 0.25}
    assert apart.probabilities == {"kind": 1.0}
    assert [task.name for task in apart.tasks] == ["kind"]


def test_a_short_run_is_not_all_warm_up_and_nothing_ends_it_early():
    run = run_parameters(parameters(), ())
    assert run.optimisation.warmup_steps == 8
    assert run.optimisation.min_steps == run.max_steps


def test_experts_are_those_of_the_tasks_that_are_left():
    tuning = Tuning(method="CGCLoRA", rank=12, expert_rank=4)
    assert run_parameters(parameters(tuning=tuning), ()).tuning.method == "CGCLoRA"
    assert run_parameters(parameters(tuning=tuning), ("repeat",)).tuning.method == "LoRA"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> TrainingSuite:
    suite = TrainingSuite(tmp_path_factory.mktemp("check"), train=120, others=24)
    assert suite.run_here(suite.order("base", base_parameters())) is None
    return suite


def test_the_stage_gives_the_task_s_points_of_both_runs_and_keeps_no_weights(suite: TrainingSuite):
    order = suite.order("check/kind", parameters())
    assert suite.run_here(order) is None
    manifest = suite.manifest("check/kind")
    result = CheckResult.model_validate(manifest.result)
    assert (result.task, result.without, result.rows) == ("kind", ("repeat",), 480)
    assert result.together != result.apart
    assert all(0 <= point.score <= 1 for point in (result.together, result.apart))
    assert manifest.files == {}
    assert not suite.work("check/kind").exists()
    kept = [path for path in suite.work("check/kind").parent.rglob("*.bin") if path.parent.parent.name == ROWS_FOLDER]
    assert len(kept) == 4, "training and validation rows of two tasks, for the other stages too"


def test_a_check_that_was_killed_after_its_first_run_comes_to_the_same_result(
    suite: TrainingSuite, monkeypatch: pytest.MonkeyPatch
):
    before = suite.manifest("check/kind")
    Path(suite.artifact("check/kind"), "manifest.json").unlink()
    order = suite.order("check/kind", parameters())
    real = check.train
    runs: list[int] = []

    def killed(*arguments, **options):
        runs.append(1)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(check, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            suite.run_here(order)
    assert (suite.work("check/kind") / "together" / "checkpoint").exists()
    assert suite.run_here(order) is None
    assert suite.manifest("check/kind").outputs == before.outputs
