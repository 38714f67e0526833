"""The filter stage reads manifests and gives digests that cover just what stages 2 and 3 read."""

from __future__ import annotations

from multitask_api.resource.training import HighResourceStage, MixtureStage
from multitask_api.stage_io.parameters import FilterParameters
from multitask_api.stage_io.results import FilterResult, PrepareResult, SplitRows
from multitask_trainer.stages import filter as filter_stage
from support.evaluation_fixtures import EvaluationSuite, train_result


def run(root, tasks, **changes):
    """``tasks``: name → (train rows, saturation and chosen step of each seed)."""
    suite = EvaluationSuite(root, ())
    for name, (rows, seeds) in tasks.items():
        result = PrepareResult(rows=SplitRows(train=rows, validation=1, test=1))
        suite.artifact(f"prepare/{name}", result)
        for seed, (saturation, chosen) in enumerate(seeds):
            trained = train_result(name, saturation_step=saturation, chosen_step=chosen)
            suite.artifact(f"baseline/{name}/seed-{seed}", trained)
    parameters = FilterParameters(
        groups={"g": tuple(tasks)},
        high_resource=HighResourceStage(max_steps=50),
        mixture=MixtureStage(temperature=1.0, max_steps=100),
        batch_rows=10,
        baselines_enabled=True,
    ).model_copy(update=changes)
    outcome = filter_stage.work(suite.stage("filter", "filter", parameters))
    return FilterResult.model_validate(outcome.result.to_json()).group("g"), outcome.outputs


BIG = (900, [(200, 150), (300, 250)])
SMALL = (100, [(5, 4)])


def test_need_is_the_mean_over_seeds(tmp_path):
    plan, outputs = run(tmp_path, {"big": BIG, "small": SMALL})
    assert plan.need_rows == {"big": 2500, "small": 50}
    assert plan.high_resource == ("big",)
    assert set(outputs) == {"high-resource/g", "mixture/g"}


def test_declared_saturation_stands_in_for_a_baseline(tmp_path):
    plan, _ = run(tmp_path, {"big": (900, []), "small": SMALL}, declared_saturation_steps={"big": 120})
    assert plan.need_rows["big"] == 1200
    assert plan.high_resource == ("big",)


def test_a_task_that_shares_a_name_s_beginning_is_another_task(tmp_path):
    plan, _ = run(tmp_path, {"big": (900, []), "big-two": BIG})
    assert plan.need_rows == {"big-two": 2500}


def test_a_new_task_changes_stage_2_only_if_its_set_or_rates_change(tmp_path):
    before = run(tmp_path / "a", {"big": BIG, "small": SMALL})[1]
    same = run(tmp_path / "b", {"big": BIG, "small": SMALL, "third": (50, [(1, 1)])})[1]
    assert same["high-resource/g"] == before["high-resource/g"]
    assert same["mixture/g"] != before["mixture/g"]
    other = run(tmp_path / "c", {"big": BIG, "small": SMALL, "third": (50, [(90, 90)])})[1]
    assert other["high-resource/g"] != before["high-resource/g"]


def test_another_budget_changes_stage_3_alone(tmp_path):
    before = run(tmp_path / "a", {"big": BIG, "small": SMALL})[1]
    after = run(tmp_path / "b", {"big": BIG, "small": SMALL}, mixture=MixtureStage(temperature=1.0, max_steps=110))[1]
    assert after["high-resource/g"] == before["high-resource/g"]
    assert after["mixture/g"] != before["mixture/g"]
