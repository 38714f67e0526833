"""Groups, stage 2 and budgets, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multitask_api.errors import UserError
from multitask_api.resource.training import HighResourceStage, MixtureStage
from multitask_trainer.training.group_plan import GroupInputs, Saturation, divide_steps, plan_group

ROWS = {"big": 8000, "middle": 1000, "small": 100}
AUTO = HighResourceStage(max_steps=100)
STAGE3 = MixtureStage(temperature=1.0, max_steps=100)


def group(rows=ROWS, batch_rows=10, **steps):
    return GroupInputs(
        "classification", rows, {task: Saturation(*_pair(value)) for task, value in steps.items()}, batch_rows
    )


def _pair(value):
    return value if isinstance(value, tuple) else (value, 0.0)


def test_auto_takes_the_late_tasks_that_the_mixture_starves():
    # 100 steps of 10 rows: big is drawn 879 times, middle 110, small 11.
    plan = plan_group(group(big=80, middle=20, small=12), AUTO, STAGE3)
    assert plan.need_rows == {"big": 800, "middle": 200, "small": 120}
    assert plan.high_resource == ()  # middle and small need more, but saturate before the mean; big gets enough
    plan = plan_group(group(big=80, middle=60, small=12), AUTO, STAGE3)
    assert plan.high_resource == ("middle",)
    assert plan.high_resource_probabilities == {"middle": 1.0}
    assert "saturate late" in plan.reason


CHOICES = [
    ("the late ones get enough", {"big": 80, "middle": 5, "small": 1}, {}, (), "gives what they need"),
    ("a late one that lacks rows", {"big": 120, "middle": 10, "small": 2}, {}, ("big",), "big: saturate late"),
    ("equal needs: nobody is late", {"big": 90, "middle": 90, "small": 90}, {}, (), "later than the others"),
    ("the chosen checkpoint does not count", {"big": (10, 900), "middle": 5, "small": 1}, {}, (), "what they need"),
    ("an unknown task is never high-resource", {"big": 120, "middle": 20}, {}, ("big",), "big:"),
    ("one known task is not later than others", {"big": 900}, {}, (), "later than the others"),
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
    ("a minimum nobody reaches", {"big": 50}, {"min_saturation_steps": 60}, (), "no task saturates at step 60"),
    ("a minimum all reach", {"big": 5, "middle": 5, "small": 5}, {"min_saturation_steps": 5}, (), "all tasks saturate"),
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
    plan = plan_group(group(rows, a=10**6, b=10**6, d=1), AUTO, stage3)
    assert plan.high_resource_probabilities == pytest.approx({"a": 10 / 11, "b": 1 / 11})
    assert [round(share, 3) for share in plan.probabilities.values()] == [0.386, 0.386, 0.173, 0.055]


def test_a_weight_gives_a_task_more_of_stage_3_and_leaves_stage_2_and_the_steps():
    plain = group(big=120, middle=10, small=2)
    weighted = replace(plain, weights={"small": 10.0})
    plan, before = (plan_group(inputs, AUTO, STAGE3) for inputs in (weighted, plain))
    assert plan.probabilities == pytest.approx({"big": 8 / 10, "middle": 1 / 10, "small": 1 / 10})
    assert plan.expected_stage3_rows == {"big": 800, "middle": 100, "small": 100}
    assert plan.high_resource_probabilities == before.high_resource_probabilities
    assert plan.mixture_steps == before.mixture_steps


def test_budget_is_the_sum_of_the_chosen_checkpoints():
    plan = plan_group(group(big=(80, 90.5), middle=(30, 20), small=(5, 4)), AUTO, MixtureStage())
    assert plan.mixture_steps == 115


def test_budget_with_a_task_that_nothing_is_known_of():
    plan = plan_group(group(big=(80, 90), middle=(30, 20)), AUTO, MixtureStage())
    assert plan.mixture_steps == 165
    assert any("small: counted as the mean" in text for text in plan.warnings)


def test_budget_without_any_baseline_says_how_to_set_it():
    plan = plan_group(group(), AUTO, MixtureStage())
    assert plan.mixture_steps == 5 * 9100 // 10
    assert "stages.mixture.maxSteps" in plan.warnings[0]


def test_a_minimum_leaves_stage_2_its_maximum():
    plan = plan_group(group(big=80, middle=20), AUTO.model_copy(update={"min_saturation_steps": 50}), STAGE3)
    assert plan.high_resource == ("big",)
    assert plan.high_resource_steps is None
    assert plan.expected_stage2_rows == {"big": 1000}


PAPER = {"a": 500_000, "b": 50_000, "c": 10_000, "d": 1_000}
PAPER_STEPS = {"a": 3000, "b": 1500, "c": 800, "d": (200, 460)}
LIMITED = {"size_limit": 50_000}
BIG_AND_SMALL = {"big": 200_000, "small": 500}
AT_THE_LIMIT = dict.fromkeys(["x", "y", "z"], (4000, 4000))
# Rows of each task, its saturation (and chosen) step, settings of stage 3, and the high-resource tasks.
SUITES = [
    pytest.param(PAPER, PAPER_STEPS, {}, ("b",), id="the paper's sizes: stage 3 gives the largest enough"),
    pytest.param(PAPER, PAPER_STEPS, LIMITED, ("a",), id="the paper's sizes with K: the largest lacks rows"),
    pytest.param(PAPER, PAPER_STEPS, {"max_steps": 2000, **LIMITED}, ("a", "b"), id="a short mixture: both late ones"),
    pytest.param(BIG_AND_SMALL, {"big": 4000, "small": (60, 460)}, {}, (), id="small at minSteps: enough for both"),
    pytest.param(
        BIG_AND_SMALL, {"big": 4000, "small": (60, 460)}, {"max_steps": 3000}, ("big",), id="small at minSteps"
    ),
    pytest.param(
        BIG_AND_SMALL, {"big": 4000, "small": (60, 460)}, {"temperature": 3.33, **LIMITED}, ("big",), id="flat rates"
    ),
    pytest.param({"x": 9000, "y": 9000, "z": 9000}, {"x": 700, "y": 700, "z": 700}, {}, (), id="equal tasks"),
    pytest.param({"x": 90_000, "y": 9000, "z": 900}, AT_THE_LIMIT, {}, (), id="everything saturates at the limit"),
    pytest.param(
        {"x": 90_000, "y": 90_000, "z": 900},
        AT_THE_LIMIT | {"z": 100},
        {"max_steps": 6000, **LIMITED},
        ("x", "y"),
        id="two of three at the limit, and a mixture that gives them three quarters",
    ),
    pytest.param({"only": 9000}, {"only": 4000}, {}, (), id="one task"),
    pytest.param(PAPER, {"a": 3000, "d": 200}, LIMITED, ("a",), id="declared baselines, two of four"),
]


@pytest.mark.parametrize(("rows", "steps", "settings", "high"), SUITES)
def test_high_resource_tasks_are_those_that_need_many_steps_by_themselves(rows, steps, settings, high):
    plan = plan_group(group(rows, 64, **steps), HighResourceStage(max_steps=10**6), MixtureStage(**settings))
    assert plan.high_resource == high
    assert all(plan.need_rows[task] > min(plan.need_rows.values()) for task in high)


@pytest.mark.parametrize(("rows", "steps", "settings", "high"), SUITES)
def test_stage_2_lasts_as_long_as_the_shortfall_and_takes_no_task_beyond_twice_its_need(rows, steps, settings, high):
    plan = plan_group(group(rows, 64, **steps), HighResourceStage(max_steps=10**6), MixtureStage(**settings))
    shortfall = {task: plan.need_rows[task] - plan.expected_stage3_rows[task] for task in high}
    for task in high:
        assert plan.expected_rows[task] == pytest.approx(
            plan.expected_stage2_rows[task] + plan.expected_stage3_rows[task], abs=1
        )
        assert plan.expected_rows[task] <= 2 * plan.need_rows[task]
    if high:
        # The task that lacks most gets what it lacks, at most an eighth and a step more; or less, if another would get
        # more than twice its need.
        given = min(plan.expected_stage2_rows[task] / missing for task, missing in shortfall.items())
        assert given <= 1.125 + 64 / min(shortfall.values())
        fullest = max(plan.expected_rows[task] / plan.need_rows[task] for task in high)
        assert given >= 1 or fullest == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "budget"),
    [
        pytest.param({"x": 710, "y": 700, "z": 700}, 1900, id="needs that differ by less than a validation"),
        pytest.param({"x": 1000, "y": 500, "z": 500}, 2850, id="a shortfall of less than a tenth"),
    ],
)
def test_near_equal_tasks_get_no_stage_2_of_a_few_steps(steps, budget):
    plan = plan_group(
        group(dict.fromkeys("xyz", 9000), 64, **steps), HighResourceStage(), MixtureStage(max_steps=budget)
    )
    assert plan.high_resource == ()


def test_a_task_that_repeats_its_rows_for_nothing_is_warned_about():
    rows = {"big": 200_000, "small": 500}
    stage3 = MixtureStage(temperature=5.0, size_limit=1000)
    plan = plan_group(group(rows, 64, big=4000, small=(60, 460)), HighResourceStage(), stage3)
    (text,) = [text for text in plan.warnings if text.startswith("small ")]
    assert "times each of its rows; a lower mixture.temperature" in text


def test_the_small_task_of_a_lopsided_group_is_not_trained_for_hundreds_of_epochs():
    rows = {"big": 200_000, "small": 500}
    plan = plan_group(group(rows, 64, big=4000, small=(60, 460)), HighResourceStage(), MixtureStage(max_steps=3000))
    assert "small" not in plan.high_resource
    assert plan.expected_rows["small"] / rows["small"] < 20


def test_one_task_s_shortfall_does_not_take_another_beyond_twice_its_need():
    # Stage 2 would have to be thirty times as long to give rare, 1 row in 31, what it lacks.
    rows = {"often": 90_000, "rare": 3_000, "early": 3_000}
    plan = plan_group(
        group(rows, 64, often=2000, rare=2000, early=50),
        HighResourceStage(max_steps=100_000),
        MixtureStage(max_steps=600),
    )
    assert plan.high_resource == ("often", "rare")
    assert plan.expected_rows["often"] == pytest.approx(2 * plan.need_rows["often"], rel=0.01)
    assert any(text.startswith("rare needs 128000 rows") for text in plan.warnings)


def test_max_steps_ends_stage_2_before_the_shortfall_is_made_up_and_says_so():
    plan = plan_group(group(PAPER, 64, **PAPER_STEPS), HighResourceStage(max_steps=100), MixtureStage(**LIMITED))
    assert plan.high_resource_steps == 100
    assert any(text.startswith("a needs 192000 rows") for text in plan.warnings)


def test_a_small_change_of_the_mixture_leaves_stage_2_as_it_was():
    steps = {
        plan_group(
            group(PAPER, 64, **PAPER_STEPS), HighResourceStage(), MixtureStage(max_steps=budget, **LIMITED)
        ).high_resource_steps
        for budget in (6010, 6040, 6070)
    }
    assert len(steps) == 1


def test_expected_rows_and_warning():
    plan = plan_group(group(big=80, middle=150, small=2), AUTO, STAGE3)
    assert plan.high_resource == ("middle",)
    # stage 2: 100 steps of 10 rows; stage 3: 8000, 1000 and 100 of 9100.
    assert plan.expected_stage2_rows == {"middle": 1000}
    assert plan.expected_rows == {"big": 879, "middle": 1110, "small": 11}
    more = "raise stages.mixture.maxSteps, or its weight"
    assert plan.warnings == (
        f"middle needs 1500 rows by its single-task run; stages 2 and 3 together give it about 1110; {more}",
        f"small needs 20 rows by its single-task run; stages 2 and 3 together give it about 11; {more}",
    )


def test_a_group_of_one_task_is_a_mixture_of_one():
    plan = plan_group(group({"only": 50}, only=(1000, 900)), AUTO, MixtureStage())
    assert plan.high_resource == ()
    assert plan.probabilities == {"only": 1.0}
    assert plan.mixture_steps == 900


def named(name, is_trained=True, **steps):
    """A group with a task of 1,000 rows for each of ``steps``: (saturation, chosen)."""
    saturation = {task: Saturation(*_pair(value)) for task, value in steps.items()}
    return GroupInputs(name, dict.fromkeys(steps, 1000), saturation, 10, is_trained)


def test_total_steps_are_divided_by_the_default_budgets_of_the_groups():
    groups = [named("binary", a=(50, 60), b=(50, 40)), named("generation", c=(250, 301), d=(80, 100))]
    assert divide_steps(501, groups) == {"binary": 100, "generation": 401}, "as without a total"
    assert divide_steps(1004, groups) == {"binary": 200, "generation": 804}
    assert divide_steps(4, groups) == {"binary": 1, "generation": 3}
    assert divide_steps(2, groups) == {"binary": 1, "generation": 1}


def test_a_group_that_its_baseline_answers_counts_with_the_steps_of_that():
    groups = [named("classification", a=(50, 60), b=(50, 40)), named("generation", False, c=(250, 300.5))]
    assert divide_steps(1000, groups) == {"classification": 1000 - 301}
    assert divide_steps(1000, groups[1:]) == {}
    with pytest.raises(UserError, match=r"stages\.totalSteps: 301 steps leave 0 for the groups classification"):
        divide_steps(301, groups)


STARVED = {"big": (120, 60), "middle": (10, 20), "small": (2, 20)}  # the mixture's default is 100 steps


def test_stage_2_comes_out_of_the_group_s_share():
    alone = plan_group(group(**STARVED), AUTO, MixtureStage())
    assert (alone.high_resource, alone.mixture_steps) == (("big",), 100)
    assert alone.high_resource_steps is not None
    total = 100 + alone.high_resource_steps
    shared = plan_group(group(**STARVED), AUTO, MixtureStage(), share=total)
    assert (shared.high_resource, shared.high_resource_steps) == (("big",), alone.high_resource_steps)
    assert shared.mixture_steps == 100, "a total of the default budgets changes nothing"
    off = plan_group(group(**STARVED), AUTO.model_copy(update={"enabled": False}), MixtureStage(), share=total)
    assert (off.high_resource, off.mixture_steps) == ((), total)


def test_stage_2_takes_at_most_half_of_the_share():
    minimum = AUTO.model_copy(update={"min_saturation_steps": 50})
    plan = plan_group(group(**STARVED), minimum, MixtureStage(max_steps=7), share=61)
    assert (plan.high_resource_steps, plan.mixture_steps) == (30, 31)
    assert "it has 30 of the 61 steps that are the group's of stages.totalSteps" in plan.reason
    assert sum(plan.expected_stage2_rows.values()) == 300
    assert sum(plan.expected_stage3_rows.values()) == pytest.approx(310, abs=2)
    plan = plan_group(group(**STARVED), minimum, MixtureStage(), share=1)
    assert (plan.high_resource, plan.mixture_steps) == ((), 1)
    assert "share of stages.totalSteps is 1" in plan.reason
