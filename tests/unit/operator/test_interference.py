"""What plan and report say of affinities: the forecast, and why a task is below the threshold."""

from __future__ import annotations

import pytest

from multitask_api.stage_io.affinity import CheckResult
from multitask_api.stage_io.manifest import StageFailure
from multitask_api.stage_io.results import GroupPlan, TaskPoint, TaskVerdict
from multitask_operator.commands import console
from multitask_operator.commands.forecast import forecast_lines
from multitask_operator.planner import Capacity, Failed, UsedResults, plan
from multitask_operator.report.build import build_report
from multitask_operator.report.html import render
from multitask_operator.report.interference import affinity_of
from support.graph_builders import GB, all_done, graph_of, model, planner_input, task

#: ``escalate`` opposes ``urgency``, and ``intent`` hurts it a little.
TASKS = (task("urgency"), task("intent"), task("escalate"))
CHECKED = model(*TASKS, filtering={"strategy": "Affinity", "diagnosis": {"check": True}})
WARM = {"mixture": {"start": "Previous"}}
UNCHECKED = model(*TASKS, filtering={"strategy": "Affinity"})


def verdicts(*below: str, others: tuple[str, ...] = ()) -> dict[str, dict[str, object]]:
    """Of the first group; those ``below`` do not qualify."""
    tasks = tuple(
        TaskVerdict(
            task=name,
            score=0.8,
            baseline=0.85,
            ratio=0.94 if name in below else 1.0,
            verdict="NotQualified" if name in below else "Qualified",
            test_rows=100,
        )
        for name in ("urgency", "intent", "escalate", *others)
    )
    return {"evaluate": {"tasks": tasks}}


def report(resource, **results):
    return build_report(resource, graph_of(resource, all_done(resource, **results)), {})


def test_a_report_under_another_strategy_says_nothing_of_affinity():
    result = report(model(*TASKS))
    assert result.affinity is None
    assert result.diagnoses is None
    assert "Affinity" not in render(result)


def test_a_task_that_reaches_the_threshold_has_no_diagnosis():
    assert report(UNCHECKED).diagnoses == ()


def check(together: float, apart: float) -> dict[str, object]:
    return {"together": TaskPoint(loss=0.5, score=together), "apart": TaskPoint(loss=0.5, score=apart)}


ADVICE = [
    (UNCHECKED, {}, "give urgency another group than intent; filtering.diagnosis.check: true tries it"),
    (CHECKED, {"check": check(0.7, 0.8)}, "it is better without them in a short run: set filtering.strategy: Manual"),
    (CHECKED, {"check": check(0.8, 0.7)}, "a short run without intent is no better, so they are not the cause"),
]


@pytest.mark.parametrize(("resource", "results", "advice"), ADVICE)
def test_the_diagnosis_names_who_hurts_and_what_to_change(resource, results, advice, capsys):
    result = report(resource, **verdicts("urgency"), **results)
    (diagnosis,) = result.diagnoses
    assert diagnosis.task == "urgency"
    assert diagnosis.hurting == {"intent": (-0.3, 0.1)}
    assert advice in diagnosis.advice
    assert (diagnosis.check is None) is not results
    page = render(result)
    assert "urgency is below the threshold" in page
    assert "intent (-0.30 ± 0.10)" in page
    assert advice in page
    console.diagnoses(result)
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.startswith("urgency is below the threshold. Hurt by intent (-0.30 ± 0.10).")
    assert advice in printed


def test_a_task_that_nobody_hurts_lacks_rows_or_capacity():
    result = report(UNCHECKED, **verdicts("escalate"))
    (diagnosis,) = result.diagnoses
    assert diagnosis.hurting == {}
    assert diagnosis.advice.startswith("no task of its group surely hurts it by its gradients")


def filtered(need: int | None) -> dict[str, dict[str, object]]:
    """A plan of the first group in which ``urgency`` needs so many rows; None: that is not known."""
    plan = GroupPlan(
        name="classification",
        tasks=("urgency", "intent"),
        probabilities={"urgency": 0.5, "intent": 0.5},
        reason="chosen by the test",
        mixture_steps=400,
        need_rows={} if need is None else {"urgency": need},
    )
    alone = plan.model_copy(update={"name": "classification-escalate", "tasks": ("escalate",)})
    return {"filter": {"groups": (plan, alone)}}


@pytest.mark.parametrize(
    ("given", "need", "advice"),
    [
        (500, 2000, "it was given 500 rows in stages 2 and 3, and its single-task model needed 2,000: raise stages"),
        (2000, 2000, "it was given the rows that its single-task model needed: try a higher tuning.rank"),
        (500, None, "it was given 500 rows, and how many it needs is not known: try a higher stages.mixture.maxSteps"),
    ],
)
def test_a_task_that_a_check_clears_others_of_gets_rows_or_rank(given, need, advice):
    trained = {"mixture": {"rows_given": {"urgency": given}}}
    result = report(CHECKED, **verdicts("urgency"), check=check(0.8, 0.7), **filtered(need), **trained)
    assert advice in result.diagnoses[0].advice


def test_rows_of_the_mixtures_before_a_warm_start_count():
    before = all_done(model(*TASKS[:2], filtering={"strategy": "Affinity"}))
    warm = model(*TASKS, task("spam"), filtering=CHECKED.spec.filtering.to_json(), stages=WARM)
    results = {**verdicts("urgency", others=("spam",)), "check": check(0.8, 0.7)}
    done = all_done(warm, manifests=before, mixture={"rows_given": {"urgency": 500, "intent": 500}}, **results)
    assert graph_of(warm, done)["mixture/classification"].start.key is not None
    (diagnosis,) = build_report(warm, graph_of(warm, done), {}).diagnoses
    assert "it was given 1,500 rows in stages 2 and 3, and its single-task model needed 2,000" in diagnosis.advice


JUDGED = [
    ((0.7, 0.5), (0.8, 0.9), True),
    ((0.8, 0.5), (0.7, 0.1), False),
    ((0.8, 0.5), (0.8, 0.4), True),
    ((0.8, 0.5), (0.8, 0.5), False),
]


@pytest.mark.parametrize(("together", "apart", "confirms"), JUDGED)
def test_a_check_is_judged_by_score_and_then_by_loss(together, apart, confirms):
    points = [TaskPoint(score=score, loss=loss) for score, loss in (together, apart)]
    result = CheckResult(task="a", without=("b",), together=points[0], apart=points[1], rows=1)
    assert result.confirms is confirms


def test_a_check_that_fails_is_told_and_fails_nothing():
    """It is advice: nothing reads it."""
    done = all_done(CHECKED, **verdicts("urgency"))
    before = {key: manifest for key, manifest in done.items() if manifest.stage != "check/urgency"}
    node = graph_of(CHECKED, before)["check/urgency"]
    failure = StageFailure(stage=node.name, kind="Fault", message="CUDA out of memory")
    decided = plan(CHECKED, planner_input(CHECKED, before, failures=(Failed(failure, node.digest, 1, 0.0),)), 1.0)
    assert decided.failed == ()
    assert decided.finished
    assert decided.graph.finished
    (diagnosis,) = build_report(CHECKED, decided.graph, {}).diagnoses
    assert diagnosis.advice.endswith("the short runs of the check have no result: it failed: CUDA out of memory")


def test_the_forecast_is_there_before_anything_is_trained():
    graph = graph_of(UNCHECKED, all_done(UNCHECKED, until="baseline"))
    lines = list(forecast_lines(UNCHECKED, graph, affinity_of(graph)))
    assert lines[:3] == [
        "group classification: urgency, intent",
        "group classification-escalate: escalate",
        "urgency and escalate are apart: affinity -0.80 ± 0.10",
    ]
    assert lines[3] == "affinity of intent: urgency -0.30 ± 0.10"


def test_without_gradients_the_plan_says_what_the_groups_wait_for():
    graph = graph_of(UNCHECKED)
    text = "groups: not known before the stage affinity is done; gradients of 0 of 3 tasks"
    assert list(forecast_lines(UNCHECKED, graph, affinity_of(graph))) == [text]
    assert list(forecast_lines(model(*TASKS), graph, None)) == []


def test_gradients_start_before_baselines_and_affinity_as_soon_as_all_are_there():
    before = all_done(UNCHECKED, until="gradients")
    before = {key: value for key, value in before.items() if value.kind in ("prepare", "base")}
    decided = plan(UNCHECKED, planner_input(UNCHECKED, before, capacity=Capacity(3, 64 * GB)), 0.0)
    assert [start.node.name for start in decided.starts] == [
        "gradients/intent",  # it has most rows
        "gradients/urgency",
        "gradients/escalate",
    ]


def test_no_result_of_a_group_is_unused_while_the_groups_are_open():
    done = all_done(UNCHECKED)
    wider = model(*TASKS, task("spam"), filtering={"strategy": "Affinity"})
    used = UsedResults.of(graph_of(wider, done))
    assert all(used.uses(key) for key in done)
    assert not used.uses(("baseline/gone/seed-17", "0" * 12))
