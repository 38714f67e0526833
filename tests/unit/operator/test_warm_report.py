"""What report and plan say of a mixture that begins with an earlier one."""

from __future__ import annotations

import pytest

from multitask_api.stage_io.results import CurvePoint, TaskPoint
from multitask_operator.commands.console import starts
from multitask_operator.planner import UsedResults
from multitask_operator.planner.estimate import estimate
from multitask_operator.planner.orders import stage_order
from multitask_operator.report.build import build_report
from multitask_operator.report.html import render
from multitask_operator.report.mixture_starts import NO_COLD_RUN
from support.graph_builders import all_done, graph_of, model, task

NAME = "mixture/classification"
TWO, THREE = ("urgency", "intent"), ("urgency", "intent", "escalate")
WARM = {"mixture": {"start": "Previous"}}
BATCH = 64


def desk(names, **stages):
    return model(*(task(name) for name in names), stages=stages)


def curve(*scores, step=50):
    """The same score of every task, every ``step`` steps; that of ``escalate`` stays low."""
    points = [dict.fromkeys(THREE, TaskPoint(loss=1.0, score=score)) for score in scores]
    low = {"escalate": TaskPoint(loss=1.0, score=0.1)}
    return tuple(
        CurvePoint(step=(place + 1) * step, phase="constant", tasks=each | low) for place, each in enumerate(points)
    )


@pytest.fixture
def grown():
    """A finished warm run, and the manifests before it."""
    before = all_done(desk(TWO))
    warm = desk(THREE, **WARM)
    return warm, all_done(warm, manifests=before, mixture={"curve": curve(0.7, 0.9)})


def group_of(resource, manifests):
    report = build_report(resource, graph_of(resource, manifests), {})
    [group] = report.groups
    return report, group


def test_without_a_cold_run_the_report_says_how_to_get_one(grown, capsys):
    report, group = group_of(*grown)
    assert group.start.rows_to_bar == {"urgency": 100 * BATCH, "intent": 100 * BATCH}
    assert group.start.cold_rows_to_bar is None
    assert group.start.rows_before == 1000
    starts(report)
    shown = capsys.readouterr().out
    assert f"classification: {NO_COLD_RUN}\n" in shown
    assert "rows of the group until intent was at the bar: 6,400\n" in shown
    assert "rows of the group until escalate was at the bar: never\n" in shown
    assert "it was given 1,000 rows before this run" in shown


def test_warm_and_cold_are_compared_with_the_rows_of_stage_two(grown, capsys):
    warm, manifests = grown
    cold = desk(THREE)
    manifests = all_done(cold, manifests=manifests, mixture={"curve": curve(0.1, 0.5, 0.7, 0.9)})
    report, group = group_of(warm, manifests)
    stage2 = 400 * BATCH
    assert group.start.cold_rows_to_bar == {"urgency": stage2 + 200 * BATCH, "intent": stage2 + 200 * BATCH}
    starts(report)
    assert "until urgency was at the bar: 6,400; cold 38,400\n" in capsys.readouterr().out
    assert "until urgency was at the bar: 6,400; cold 38,400." in render(report)


def test_the_report_agrees_with_the_graph_that_stage_two_is_skipped(grown):
    warm, manifests = grown
    report, group = group_of(warm, manifests)
    assert group.high_resource == ()
    assert group.reason == f"the mixture {group.start.reason}"
    assert group.stage2_rows == {}
    [stage] = [stage for stage in report.stages if stage.name == "high-resource/classification"]
    assert (stage.state, stage.skipped) == ("skipped", group.reason)
    _, cold = group_of(desk(THREE), all_done(desk(THREE)))
    assert cold.start is None
    assert cold.high_resource == ("urgency",)


def test_a_cold_start_has_its_reason_and_nothing_to_compare(capsys):
    resource = desk(TWO, **WARM)
    report, group = group_of(resource, all_done(resource))
    assert (group.start.digest, group.start.rows_to_bar) == (None, {})
    starts(report)
    assert capsys.readouterr().out == "classification: the mixture is finished already; it started cold\n"


def test_the_order_and_the_used_results_have_the_start_until_the_mixture_is_done():
    warm = desk(THREE, **WARM)
    before = all_done(desk(TWO))
    [key] = [key for key in before if key[0] == NAME]
    graph = graph_of(warm, all_done(warm, until="mixture", manifests=before))
    order = stage_order("desk", graph, graph[NAME], "/".join, work="w", threads=1, device="cpu")
    assert order.inputs[NAME] == "/".join(key)
    assert key in UsedResults.of(graph).keys
    assert estimate(warm, graph).steps == 400  # of the mixture alone: there is no stage 2
    done = graph_of(warm, all_done(warm, manifests=before))
    assert key not in UsedResults.of(done).keys
