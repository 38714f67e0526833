"""Conditions and rows of the status of a model that is trained, as a table of situations."""

from __future__ import annotations

import json

import pytest

from multitask_api.stage_io.results import ServedBy, TaskVerdict
from multitask_operator.planner import Running
from multitask_operator.reconciler.blockers import Blocker
from support.graph_builders import all_done, failed, graph_of, model, task
from support.status_builders import status

DESK = model()
DONE = all_done(DESK)


def conditions(*arguments, **more):
    return {item.type: (item.status, item.reason) for item in status(*arguments, **more).conditions}


def test_before_anything_ran():
    assert conditions(DESK) == {
        "Ready": ("False", "NotTrained"),
        "Consolidated": ("Unknown", "NotJudged"),
        "Progressing": ("True", "StagesRunning"),
        **dict.fromkeys(("Trained", "Complete", "Failed"), ("False", "StagesRunning")),
        "Reconciling": ("True", "StagesRunning"),
    }


def test_when_all_qualify():
    assert conditions(DESK, DONE) == {
        "Ready": ("False", "Trained"),
        "Consolidated": ("True", "AllQualified"),
        "Progressing": ("False", "Complete"),
        "Trained": ("True", "Trained"),
        "Complete": ("True", "Complete"),
        "Failed": ("False", "Complete"),
    }


def test_a_task_on_its_baseline_is_a_normal_result():
    verdict = TaskVerdict(task="reply", score=0.5, verdict="NotQualified", test_rows=9)
    manifests = all_done(DESK)
    key = ("evaluate/generation", graph_of(DESK, manifests)["evaluate/generation"].digest)
    result = manifests[key].result | {"tasks": [verdict.to_json()]}
    manifests[key] = manifests[key].model_copy(update={"result": result})
    reasons = conditions(DESK, manifests)
    assert reasons["Consolidated"] == ("False", "TasksOutsideMixture")
    assert reasons["Ready"] == ("False", "Trained")
    shown = status(DESK, manifests)
    assert shown.qualified == "3/4"
    assert shown.revision == "0123abcd"


def test_a_failure_is_named():
    before = all_done(DESK, until="base")
    broken = failed(graph_of(DESK, before)["base"])
    shown = status(DESK, before, failures=(broken,))
    progressing = {item.type: item for item in shown.conditions}["Progressing"]
    assert (progressing.status, progressing.reason, progressing.message) == ("False", "StageFailed", "base: it broke")
    assert next(row for row in shown.stages if row.name == "base").failed == 1
    assert shown.stage == "Failed"


BLOCKER = Blocker("ClaimMissing", "there is no claim; create it")


@pytest.mark.parametrize(("is_progressing", "expected"), [(False, "ClaimMissing"), (True, "StagesRunning")])
def test_what_blocks_is_in_ready_and_in_progressing_unless_other_work_goes_on(is_progressing, expected):
    shown = conditions(DESK, {}, BLOCKER, is_progressing=is_progressing)
    assert shown["Ready"] == ("False", "ClaimMissing")
    assert shown["Progressing"][1] == expected


def test_a_suspended_model_says_so():
    suspended = model(suspend=True)
    assert conditions(suspended)["Progressing"] == ("False", "Suspended")
    assert status(suspended).stage == "Suspended"


def test_stages_are_aggregated_by_kind():
    before = all_done(DESK, until="baseline")
    graph = graph_of(DESK, before)
    at_work = (Running("baseline/reply/seed-17", graph["baseline/reply/seed-17"].digest, 0.0),)
    rows = {row.name: row for row in status(DESK, before, running=at_work).stages}
    assert (rows["prepare"].total, rows["prepare"].done) == (4, 4)
    assert (rows["baseline"].total, rows["baseline"].done, rows["baseline"].running) == (4, 0, 2)
    assert len(rows) <= 12


def test_a_transition_time_moves_only_with_the_status():
    first = status(DESK)
    second = status(DESK, DONE, previous=first, now=3600.0)
    times = {item.type: item.last_transition_time for item in second.conditions}
    assert times["Consolidated"] == "1970-01-01T01:00:00Z"
    assert times["Ready"] == "1970-01-01T00:00:00Z"
    third = status(DESK, DONE, previous=second, now=7200.0)
    assert {item.type: item.last_transition_time for item in third.conditions} == times


def test_a_row_says_who_answers_and_why():
    desk = model(task("urgency"), task("escalate"), task("topic"))
    verdicts = (
        TaskVerdict(task="urgency", score=0.9, verdict="Qualified", test_rows=9),
        TaskVerdict(task="escalate", score=0.734, verdict="Inconclusive", advantage=(0.08, 0.26), test_rows=9),
        TaskVerdict(task="topic", score=0.5, verdict="NotQualified", test_rows=9),
    )
    served = (
        ServedBy(task="urgency", served_by="classification", reason="…", cause="Qualified"),
        ServedBy(task="escalate", served_by="classification", reason="…", cause="SurelyBetter"),
        ServedBy(task="topic", served_by="baseline", reason="…", cause="BelowThreshold"),
    )
    found = status(desk, all_done(desk, evaluate={"tasks": verdicts}, export={"tasks": served}))
    assert [(row.name, row.served_by, row.reason) for row in found.tasks] == [
        ("urgency", "classification", "Qualified"),
        ("escalate", "classification", "SurelyBetter"),
        ("topic", "baseline", "BelowThreshold"),
    ]
    consolidated = next(item for item in found.conditions if item.type == "Consolidated")
    assert (consolidated.status, consolidated.reason) == ("False", "TasksOutsideMixture")
    assert consolidated.message == (
        "1/3 tasks qualify; not escalate, topic. The shared model is surely at least as good for escalate and answers "
        "there too."
    )


def test_a_result_of_an_older_release_has_no_reason():
    served = (ServedBy(task="urgency", served_by="classification", reason="Qualified: …"),)
    desk = model(task("urgency"))
    assert status(desk, all_done(desk, export={"tasks": served})).tasks[0].reason is None


def test_the_status_of_128_tasks_stays_below_48_kb():
    large = model(*(task(f"task-{number:03d}-{'x' * 40}") for number in range(128)))
    text = json.dumps(status(large, all_done(large)).to_json())
    assert len(text) < 48_000
