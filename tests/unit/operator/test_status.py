"""Conditions and rows of the status, as a table of situations."""

from __future__ import annotations

import json

import pytest

from multitask_api.stage_io.results import ServedBy, TaskVerdict
from multitask_operator.planner import Running, plan
from support.graph_builders import all_done, failed, graph_of, model, observed, task

DESK = model()
DONE = all_done(DESK)


def conditions(manifests, **more):
    decided = plan(DESK, observed(DESK, manifests, **more), 0.0)
    return {item.type: (item.status, item.reason) for item in decided.status.conditions}


def verdicts(**by_task):
    return tuple(TaskVerdict(task=name, score=0.5, verdict=verdict, test_rows=9) for name, verdict in by_task.items())


def test_before_anything_ran():
    assert conditions({}) == {
        "Ready": ("False", "NotExported"),
        "Consolidated": ("Unknown", "NotJudged"),
        "Progressing": ("True", "StagesRunning"),
    }


def test_when_all_qualify():
    assert conditions(DONE) == {
        "Ready": ("True", "AllTasksServed"),
        "Consolidated": ("True", "AllQualified"),
        "Progressing": ("False", "Complete"),
    }


def test_a_task_on_its_baseline_is_a_normal_ready_result():
    one_out = {"tasks": verdicts(reply="NotQualified")}
    manifests = all_done(DESK)
    graph = graph_of(DESK, manifests)
    key = ("evaluate/generation", graph["evaluate/generation"].digest)
    result = manifests[key].result | {"tasks": [item.to_json() for item in one_out["tasks"]]}
    manifests[key] = manifests[key].model_copy(update={"result": result})
    found = conditions(manifests)
    assert found["Consolidated"] == ("False", "TasksOutsideMixture")
    assert found["Ready"] == ("True", "AllTasksServed")
    status = plan(DESK, observed(DESK, manifests), 0.0).status
    assert status.qualified == "3/4"
    assert status.revision == "0123abcd"


EXPORTS = [
    ({"tasks": (ServedBy(task="reply", served_by=None, reason="NoBaseline"),)}, ("False", "TasksNotRouted")),
    ({"promoted": False}, ("False", "NotPromoted")),
]


@pytest.mark.parametrize(("result", "expected"), EXPORTS)
def test_ready_is_about_who_answers(result, expected):
    assert conditions(all_done(DESK, export=result))["Ready"] == expected


def test_a_failure_is_named():
    before = all_done(DESK, until="base")
    broken = failed(graph_of(DESK, before)["base"])
    decided = plan(DESK, observed(DESK, before, failures=(broken,)), 0.0)
    progressing = {item.type: item for item in decided.status.conditions}["Progressing"]
    assert (progressing.status, progressing.reason, progressing.message) == ("False", "StageFailed", "base: it broke")
    assert next(row for row in decided.status.stages if row.name == "base").failed == 1


def test_waiting_for_a_retry_is_progress():
    before = all_done(DESK, until="base")
    broken = failed(graph_of(DESK, before)["base"], "Retryable")
    assert conditions(before, failures=(broken,))["Progressing"] == ("True", "RetryWaiting")


def test_stages_are_aggregated_by_kind():
    before = all_done(DESK, until="baseline")
    graph = graph_of(DESK, before)
    at_work = (Running("baseline/reply/seed-17", graph["baseline/reply/seed-17"].digest, 0.0),)
    rows = {row.name: row for row in plan(DESK, observed(DESK, before, running=at_work), 0.0).status.stages}
    assert (rows["prepare"].total, rows["prepare"].done) == (4, 4)
    assert (rows["baseline"].total, rows["baseline"].done, rows["baseline"].running) == (4, 0, 2)
    assert len(rows) <= 12


def test_a_transition_time_moves_only_with_the_status():
    first = plan(DESK, observed(DESK), 0.0).status
    second = plan(DESK, observed(DESK, DONE, previous=first), 3600.0).status
    times = {item.type: item.last_transition_time for item in second.conditions}
    assert times["Ready"] == "1970-01-01T01:00:00Z"
    third = plan(DESK, observed(DESK, DONE, previous=second), 7200.0).status
    assert {item.type: item.last_transition_time for item in third.conditions} == times


def test_a_wiped_status_changes_no_decision():
    first = plan(DESK, observed(DESK), 0.0)
    again = plan(DESK, observed(DESK, previous=first.status), 0.0)
    assert again.actions == first.actions


def test_the_status_of_128_tasks_stays_below_48_kb():
    large = model(*(task(f"task-{number:03d}-{'x' * 40}") for number in range(128)))
    text = json.dumps(plan(large, observed(large, all_done(large)), 0.0).status.to_json())
    assert len(text) < 48_000
