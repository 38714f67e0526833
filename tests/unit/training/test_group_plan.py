"""Groups, stage 2 and budgets, as tables."""

from __future__ import annotations

import pytest

from multitask_api.resource.training import HighResourceStage, MixtureStage
from multitask_trainer.training.group_plan import GroupInputs, Saturation, plan_group

ROWS = {"big": 8000, "middle": 1000, "small": 100}
AUTO = HighResourceStage(max_steps=100)
STAGE3 = MixtureStage(temperature=1.0, max_steps=100)


def group(rows=ROWS, batch_rows=10, **steps):
    return GroupInputs(
        "classification", rows, {task: Saturation(*_pair(value)) for task, value in steps.items()}, batch_rows
    )


def _pair(value):
    return value if isinstance(value, tuple) else (value, 0.0)


def test_auto_takes_the_tasks_that_the_mixture_starves():
    # 100 steps of 10 rows: big is drawn 879 times, middle 110, small 11.
    plan = plan_group(group(big=80, middle=20, small=1), AUTO, STAGE3)
    assert plan.need_rows == {"big": 800, "middle": 200, "small": 10}
    assert plan.high_resource == ("middle",)
    assert plan.high_resource_probabilities == {"middle": 1.0}
    assert "need more rows than 100 steps" in plan.reason


CHOICES = [
    ("none needs more", {"big": 80, "middle": 5, "small": 1}, {}, (), "no task would need more rows"),
    ("all need more", {"big": 90, "middle": 20, "small": 2}, {}, (), "all tasks need more rows"),
    ("the chosen checkpoint counts if it is later", {"big": (10, 90), "middle": 5, "small": 1}, {}, ("big",), "big:"),
    ("an unknown task is never high-resource", {"big": 90, "middle": 20}, {}, ("big", "middle"), "big, middle:"),
    ("nothing known", {}, {}, (), "no task's saturation is known"),
    ("switched off", {"big": 90}, {"enabled": False}, (), "switched off"),
    ("a minimum", {"big": 50, "middle": 30, "small": 29}, {"min_saturation_steps": 30}, ("big", "middle"), "step 30"),
    (
        "a minimum looks at saturation alone",
        {"big": (10, 90), "middle": 30},
        {"min_saturation_steps": 30},
        ("middle",),
        "",
    ),
    ("a minimum nobody reaches", {"big": 50}, {"min_saturation_steps": 60}, (), "no task would saturate at step 60"),
]


@pytest.mark.parametrize(
    ("sentence", "steps", "settings", "chosen", "reason"), CHOICES, ids=lambda value: str(value)[:30]
)
def test_stage_2(sentence, steps, settings, chosen, reason):
    plan = plan_group(group(**steps), AUTO.model_copy(update=settings), STAGE3)
    assert plan.high_resource == chosen, sentence
    assert reason in plan.reason
    assert set(plan.high_resource_probabilities) == set(chosen)


def test_stage_2_is_instance_balanced_and_stage_3_clipped_and_flattened():
    rows = {"a": 500_000, "b": 50_000, "c": 10_000, "d": 1_000}
    stage3 = MixtureStage(temperature=2.0, size_limit=50_000, max_steps=10)
    plan = plan_group(group(rows, a=10**6, b=10**6), AUTO, stage3)
    assert plan.high_resource_probabilities == pytest.approx({"a": 10 / 11, "b": 1 / 11})
    assert [round(share, 3) for share in plan.probabilities.values()] == [0.386, 0.386, 0.173, 0.055]


def test_budget_is_the_sum_of_the_chosen_checkpoints():
    plan = plan_group(group(big=(80, 90.5), middle=(30, 20), small=(5, 4)), AUTO, MixtureStage())
    assert plan.mixture_steps == 115
    assert plan.warnings == ()


def test_budget_with_a_task_that_nothing_is_known_of():
    plan = plan_group(group(big=(80, 90), middle=(30, 20)), AUTO, MixtureStage())
    assert plan.mixture_steps == 165
    assert any("small: counted as the mean" in text for text in plan.warnings)


def test_budget_without_any_baseline_says_how_to_set_it():
    plan = plan_group(group(), AUTO, MixtureStage())
    assert plan.mixture_steps == 5 * 9100 // 10
    assert "stages.mixture.maxSteps" in plan.warnings[0]


def test_expected_rows_and_warning():
    plan = plan_group(group(big=80, middle=150, small=2), AUTO, STAGE3)
    assert plan.high_resource == ("middle", "small")
    # stage 2: 100 steps of 10 rows, 10/11 and 1/11; stage 3: 8000, 1000 and 100 of 9100.
    assert plan.expected_rows == {"big": 879, "middle": 1019, "small": 102}
    assert plan.warnings == (
        "middle needs 1500 rows by its single-task run; stages 2 and 3 together give it about 1019",
    )


def test_a_group_of_one_task_is_a_mixture_of_one():
    plan = plan_group(group({"only": 50}, only=(1000, 900)), AUTO, MixtureStage())
    assert plan.high_resource == ()
    assert plan.probabilities == {"only": 1.0}
    assert plan.mixture_steps == 900
