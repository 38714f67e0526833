"""What a study comes to: ratios, differences, cost, warnings, and its pages."""

from __future__ import annotations

import re

import pytest

from multitask_operator.study import page
from multitask_operator.study.report import StudyReport
from multitask_operator.study.same_training import same_training
from support.graph_builders import task
from support.simulated_study import BASELINE_SCORE, BATCH_ROWS, SimulatedStudy, model_document, study_document

REFERENCE, OTHER = "strategy=Type", "strategy=None"
TWO = {"parameters": {"filtering.strategy": {"values": ["Type", "None"]}}, "totalSteps": 2000}
LUCK = {17: 0.0, 18: 0.01, 19: -0.01}
"""What a seed adds to the scores of both arms."""


def better(arm, seed, _task):
    """The other arm is a little better, seed by seed; the luck of a seed is the same for both."""
    own = 0.02 + 0.001 * (seed - 18) if arm == OTHER else 0.0
    return BASELINE_SCORE + LUCK[seed] + own


def study(score=better, model=None, **fields):
    found = SimulatedStudy(study_document(**{**TWO, **fields}), model or model_document(), score=score)
    found.run()
    return found


def test_a_difference_is_taken_seed_by_seed():
    report = study().report()
    reference, other = report.arms
    assert (reference.mean, reference.deviation) == (pytest.approx(1.0), pytest.approx(0.0125))
    assert other.difference is not None
    assert other.difference.seeds == (17, 18, 19)
    assert other.difference.value == pytest.approx(0.025)
    # Student with 2 degrees of freedom, and a deviation of 0.001 / 0.8 between seeds.
    reach = 4.302653 * 0.00125 / 3**0.5
    assert other.difference.interval == pytest.approx((0.025 - reach, 0.025 + reach))
    assert report.conclusion == (
        f"Supported: {OTHER} is above {REFERENCE} by 0.025 ({0.025 - reach:.3f} to {0.025 + reach:.3f})."
    )
    assert reference.difference is None


SAME = [
    ({"tuning.rank": [8, 16]}, (), "rank=16", "rank=8", "before"),  # no adapters: the model trains all weights
    ({"stages.highResource.maxSteps": [10, 20]}, (), "maxSteps=20", "maxSteps=10", "before"),  # it has no stage 2
    ({"stages.mixture.sizeLimit": [None, 10**6]}, (), "sizeLimit=1000000", "sizeLimit=unset", "after"),
    ({"filtering.strategy": ["Type", "None"]}, (task("urgency"), task("intent")), OTHER, REFERENCE, "before"),
]


@pytest.mark.parametrize(("parameters", "tasks", "arm", "first", "known"), SAME)
def test_arms_that_come_to_the_same_training_are_named_and_not_compared(parameters, tasks, arm, first, known):
    grid = {path: {"values": values} for path, values in parameters.items()}
    stages = {"highResource": {"enabled": "stages.highResource.maxSteps" not in parameters}}
    found = SimulatedStudy(
        study_document(parameters=grid, totalSteps=2000, seeds=1), model_document(*tasks, stages=stages)
    )
    assert same_training(found.graphs(preview=True).of_runs) == ({arm: first} if known == "before" else {})
    found.run()
    report = found.report()
    assert [item.same_training for item in report.arms] == [None, first]
    assert report.arms[1].difference is None
    assert report.conclusion == "Nothing is compared: all arms come to the same training."
    assert any(text.startswith(f"same training: {arm} the same as {first}: ") for text in report.warnings)
    assert f"| same training as {first} | – |" in page.markdown(report)


def test_an_arm_that_is_compared_already_widens_no_interval():
    grid = {**TWO["parameters"], "tuning.rank": {"values": [8, 16]}}
    arms = study(lambda arm, *run: better(arm.partition(",")[0], *run), parameters=grid).report().arms
    assert [item.same_training is not None for item in arms] == [False, True, False, True]
    assert arms[2].difference == study().report().arms[1].difference


def test_no_difference_is_a_possible_end():
    report = study(lambda arm, seed, _: BASELINE_SCORE + (LUCK[seed] if arm == OTHER else -LUCK[seed])).report()
    assert report.conclusion.startswith("No difference is supported: the interval of the difference to strategy=Type")


def test_fewer_than_three_seeds_support_nothing_and_the_page_says_so():
    report = study(seeds=2).report()
    assert report.conclusion == (
        "No difference is supported: fewer than 3 seeds do not show how much runs vary, so set seeds to 3 or more."
    )
    assert "2 seeds an arm: nothing is supported by fewer than 3" in report.warnings
    assert "nothing is supported by fewer than 3" in page.markdown(report)
    assert "nothing is supported by fewer than 3" in page.html(report)


DOUBTS = [
    (
        {"inconclusive": lambda _arm, _seed, task: "BaselineAtFloor" if task == "escalate" else ""},
        "not surely better",
        "about 143 test rows would tell them apart, it has 100",
    ),
    (
        {"improving": ("escalate",)},
        "still improving when its steps ran out",
        "raise stages.baseline.maxSteps, now 4,000",
    ),
    # Of one run alone: by which rows a task is trained depends on its group.
    (
        {"inconclusive": lambda *run: "LeakedTestRows" if run == (OTHER, 18, "escalate") else ""},
        "all of its test rows are in a train split",
        "take test rows that no task is trained on",
    ),
]


@pytest.mark.parametrize(("given", "reason", "advice"), DOUBTS)
def test_a_task_whose_baseline_is_none_to_judge_by_is_left_out_of_the_mean_of_all(given, reason, advice):
    def score(arm, seed, task):
        return 0.1 if task == "escalate" else better(arm, seed, task)

    found = SimulatedStudy(study_document(**TWO), score=score, **given)
    found.run()
    report = found.report()
    assert report.judged == ("urgency", "intent", "reply")
    assert report.arms[0].mean == pytest.approx(1.0)
    assert report.arms[0].runs[0].qualified == 3
    (text,) = [text for text in report.warnings if "of the mean ratio of every arm: escalate (" in text]
    assert reason in text
    assert advice in text


def test_where_no_task_can_be_compared_the_sentence_says_why():
    found = SimulatedStudy(study_document(**TWO), improving=("urgency", "intent", "escalate", "reply"))
    found.run()
    report = found.report()
    why = "urgency, intent, escalate and reply: its baseline was still improving when its steps ran out"
    assert report.conclusion == (
        f"Nothing is supported: no task has a baseline of {REFERENCE} that arms can be compared by ({why})."
    )
    assert not any("seeds" in text and "same difference" in text for text in report.warnings)


def test_a_verdict_that_is_open_in_one_run_is_counted_there_and_its_task_counts_in_all_runs():
    found = SimulatedStudy(study_document(**TWO), score=better)
    found.inconclusive = lambda *run: "IntervalTooWide" if run == (OTHER, 18, "intent") else ""
    found.run()
    report = found.report()
    assert report.judged == ("urgency", "intent", "escalate", "reply")
    assert [run.inconclusive for run in report.arms[1].runs] == [0, 1, 0]
    assert [run.qualified for run in report.arms[1].runs] == [4, 3, 4]
    assert {len(run.tasks) for run in report.arms[1].runs} == {4}
    assert report.arms[1].difference == study().report().arms[1].difference
    row = next(line for line in page.markdown(report).splitlines() if line.startswith(f"| {OTHER} |"))
    assert row.endswith("| 4/4, 3/4, 4/4 | 0, 1, 0 |")


def methods(fails):
    """Full, the reference, against LoRA, whose baselines score half; ``fails``: of which runs the evaluation does."""
    grid = {"tuning": {"values": [{"method": "Full"}, {"method": "LoRA"}]}}
    found = SimulatedStudy(study_document(**{**TWO, "parameters": grid}))
    names = [run.arm.name for run in found.runs]
    found.baseline_score = lambda arm: BASELINE_SCORE if arm == names[0] else BASELINE_SCORE / 2
    found.failing = lambda node, target: (
        node.kind == "evaluate" and target.run is not None and fails(target.run.arm.name == names[0], target.run.seed)
    )
    found.run()
    return found.report()


def test_ratios_of_all_arms_are_by_the_baselines_of_the_reference():
    report = methods(lambda is_reference, seed: is_reference and seed == 17)
    full, lora = report.arms
    assert (full.own_baselines, lora.own_baselines) == (False, True)
    assert [run.tasks["urgency"].ratio for run in lora.runs] == pytest.approx([1.0] * 3)
    assert lora.runs[0].tasks["urgency"].baseline == BASELINE_SCORE / 2
    (text,) = [text for text in report.warnings if "judged by baselines of their own" in text]
    assert text.startswith('tuning={"method":"LoRA"}: ratios are by the baselines of tuning={"method":"Full"}')
    assert not lora.own_base


def test_without_the_baselines_of_the_reference_there_is_no_ratio():
    report = methods(lambda is_reference, _seed: is_reference)
    assert report.judged == ()
    assert all(run.finished and run.mean_ratio is None for run in report.arms[1].runs)
    assert report.conclusion.startswith("Nothing is supported: ")


def test_another_pre_training_is_another_base():
    grid = {"pretraining": {"values": [None, {"maxSteps": 10}]}}
    report = study(parameters=grid).report()
    assert [arm.own_base for arm in report.arms] == [False, True]
    assert any("rows of pre-training are not counted" in text for text in report.warnings)


def test_what_was_spent_is_counted_once():
    found = study()
    report = found.report()
    cost = report.cost
    # Of six runs: 9 stages before the filter, then the filter, stage 2, a mixture, the bundle, one evaluation or two.
    assert cost.uses == 6 * 9 + 3 * 6 + 3 * 5
    # The seed of a run is not the filter's.
    assert cost.results == 9 + 2 + 3 * 5 + 3 * 4
    assert cost.ran == cost.results
    again = found.report(before=frozenset(found.manifests))
    assert (again.cost.ran, again.cost.results) == (0, cost.results)
    assert cost.seconds == pytest.approx(2.0 * cost.results)
    assert cost.shared_seconds == pytest.approx(2.0 * 9)
    for arm in report.arms:
        assert arm.stages.shared == 9
        assert {run.rows for run in arm.runs} == {2000 * BATCH_ROWS}
        assert {len(run.validations) for run in arm.runs} == {1}


def test_a_failed_arm_is_told_and_the_others_are_compared():
    grid = {"filtering.strategy": {"values": ["Type", "None"]}, "stages.mixture.temperature": {"values": [1, 2]}}
    found = SimulatedStudy(study_document(parameters=grid, totalSteps=2000), score=lambda a, s, t: better(OTHER, s, t))
    failing = "strategy=None,temperature=2"
    found.failing = lambda node, target: (
        node.kind == "mixture" and target.run is not None and target.run.arm.name == failing
    )
    found.run()
    report = found.report()
    by_name = {arm.name: arm for arm in report.arms}
    assert all(run.failure and "mixture/all failed: it broke" in run.failure for run in by_name[failing].runs)
    assert {run.state for run in by_name[failing].runs} == {"Failed"}
    assert by_name[failing].mean is None
    assert by_name["strategy=None,temperature=1"].difference is not None
    (text,) = [text for text in report.warnings if "it broke" in text]
    assert text == f"{failing}: stage mixture/all failed: it broke (log: x.log)"
    row = next(line for line in page.markdown(report).splitlines() if line.startswith(f"| {failing} |"))
    assert row == f"| {failing} | – | – | – | failed | failed |"


def test_tasks_that_get_fewer_rows_than_they_need_are_named_once_with_what_to_raise():
    (text,) = [text for text in study(totalSteps=900).report().warnings if text.startswith("fewer rows than")]
    assert "; intent needs 14,400 and gets about " in text
    assert "(all arms)" in text
    assert text.endswith("; raise totalSteps of the study, now 900")
    assert not [text for text in study(totalSteps=9000).report().warnings if text.startswith("fewer rows than")]


def test_what_was_not_run_to_its_end_says_how_to_go_on():
    found = SimulatedStudy(study_document(**TWO))
    found.run(until="mixture")
    report = found.report()
    assert report.conclusion.startswith("Nothing is supported: ")
    assert all("run the same command again" in (run.failure or "") for arm in report.arms for run in arm.runs)
    assert "not finished: 6 runs; run the same command again to go on" in report.warnings
    assert "failed" not in page.markdown(report)
    assert f"| {OTHER} | – | – | – | not finished | not finished |" in page.markdown(report)
    before_baselines = SimulatedStudy(study_document(parameters=TWO["parameters"])).report()
    assert before_baselines.total_steps is None
    assert page.html(before_baselines)


@pytest.mark.parametrize("kind", ["filter", "baseline"])
def test_what_fails_before_the_steps_are_known_fails_every_run(kind):
    found = SimulatedStudy(study_document(parameters=TWO["parameters"]))
    found.failing = lambda node, _target: node.kind == kind
    found.run()
    report = found.report()
    assert report.total_steps is None
    for run in (run for arm in report.arms for run in arm.runs):
        assert run.state == "Failed"
        assert f"stage {kind}" in (run.failure or "")


def test_study_json_is_read_back_as_it_was_written():
    report = study().report()
    assert StudyReport.model_validate_json(report.model_dump_json(by_alias=True, exclude_none=True)) == report


def test_both_pages_have_the_same_cells_and_need_nothing_from_outside():
    report = study().report()
    markdown, html = page.markdown(report), page.html(report)
    for table in page.tables(report):
        for row in table.rows:
            assert "| " + " | ".join(row) + " |" in markdown
            assert all(f">{cell}</td>" in html for cell in row if "+" not in cell)
    assert report.conclusion in markdown
    assert report.conclusion in html
    assert "<figure>" in html
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of XML, not fetched by anything
    assert set(re.findall(r"https?://[^\s\"'<>)]+", html)) <= names
    assert not re.search(r"<(script|link|iframe|object|embed)\b", html)


def test_without_a_comparison_there_is_no_figure():
    assert "<figure>" not in page.html(SimulatedStudy(study_document(**TWO)).report())


def test_a_name_cannot_break_a_page():
    grid = {"tuning.targetModules": {"values": [["a|b"], ["<b>"]]}, "tuning.method": {"values": ["LoRA"]}}
    found = SimulatedStudy(study_document(parameters=grid, totalSteps=2000))
    found.run()
    report = found.report()
    assert 'targetModules=["a\\|b"]' in page.markdown(report)
    assert "<b>" not in page.html(report).split("<body>")[1].replace("<b>Before trusting", "")


def test_a_setting_that_is_probably_not_meant_is_told_with_its_arms():
    grid = {"tuning.method": {"values": ["Full", "LoRA"]}}
    warnings = study(parameters=grid).report().warnings
    (text,) = [text for text in warnings if text.startswith("method=LoRA: spec.tuning.method: ")]
    assert "are random" in text
    everywhere = study(model=model_document(tuning={"method": "LoRA"})).report().warnings
    assert any(text.startswith("spec.tuning.method: LoRA") for text in everywhere)
