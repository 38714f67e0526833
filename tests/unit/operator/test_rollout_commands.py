"""`mtm rollout` and `mtm rollback`: what each order writes, and what it says if there is nothing to order."""

from __future__ import annotations

from typing import Any

import pytest

from multitask_api.serving_io.names import RETRY_ANNOTATION, ROLLBACK_ANNOTATION, ROLLOUT_ANNOTATION
from multitask_api.serving_io.verify import TaskFlips
from multitask_operator import cli
from multitask_operator.commands.cluster import rollout_status
from multitask_operator.commands.cluster.rollout_orders import NothingToOrder, change_for
from multitask_operator.objects.names import Owner
from multitask_operator.objects.serving.revisions import revision_configmap
from multitask_operator.reconciler.serving.routes import read_route
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.revision_state import revision_states
from multitask_operator.rollout.orders import parse_order
from support.rollout_world import MODEL, NAMESPACE, World, agreement, record

NOW = 1_790_000_000.0
STAMP = "2026-09-21T14:13:20Z"
ONE, TWO = "0000000a", "0000000b"
TASKS = ("urgency", "stance")
OVER = f"no rollout of desk is under way; the rollout of {ONE} is Successful"
WAITING = "step 1 of 3 (10 %): too few requests yet for urgency and stance"


def world(second: bool = True) -> World:
    """A first revision that serves, and perhaps a second one in its first step."""
    made = World().trained(ONE, TASKS).settle()
    return made.trained(TWO, TASKS).settle() if second else made


def cluster(made: World, **annotations: str) -> ClusterState:
    """The world as a user reads it."""
    route = made.route.model_dump(mode="json", by_alias=True, exclude_none=True) if made.route is not None else None
    owner = Owner(NAMESPACE, MODEL, "uid")
    records = [revision_configmap(owner, record(name, TASKS), {}, None) for name in made.revisions]
    for item in records:
        item["metadata"]["creationTimestamp"] = STAMP
        item["metadata"].setdefault("uid", item["metadata"]["name"])
    model: dict[str, Any] = {"metadata": {"name": MODEL, "uid": "uid", "annotations": annotations}, "spec": {}}
    return ClusterState(
        NAMESPACE, MODEL, model, task_routes=(route,) if route is not None else (), configmaps=tuple(records)
    )


#: action, revision given, annotation, its value
ORDERS = [
    ("pause", None, ROLLOUT_ANNOTATION, f"pause {TWO} {STAMP}"),
    ("promote", None, ROLLOUT_ANNOTATION, f"promote {TWO} {STAMP}"),
    ("promote", TWO, ROLLOUT_ANNOTATION, f"promote {TWO} {STAMP}"),
    ("abort", None, ROLLOUT_ANNOTATION, f"abort {TWO} {STAMP}"),
    ("rollback", None, ROLLBACK_ANNOTATION, ONE),
    ("rollback", ONE, ROLLBACK_ANNOTATION, ONE),
]


@pytest.mark.parametrize(("action", "revision", "annotation", "value"), ORDERS)
def test_an_order_is_an_annotation(action, revision, annotation, value):
    change = change_for(cluster(world()), action, revision, NOW)
    assert (change.annotation, change.value) == (annotation, value)


@pytest.mark.parametrize("action", ["pause", "promote", "abort"])
def test_the_operator_reads_what_is_written(action):
    change = change_for(cluster(world()), action, None, NOW)
    order = parse_order(change.value or "")
    assert order is not None
    assert (order.action, order.revision) == (action, TWO)


def test_a_paused_rollout_can_be_resumed_even_before_the_operator_has_seen_the_pause():
    made = world()
    seen = cluster(made, **{ROLLOUT_ANNOTATION: f"pause {TWO} {STAMP}"})
    assert change_for(seen, "resume", None, NOW).value == f"resume {TWO} {STAMP}"
    made.order("pause")
    made.settle()
    assert change_for(cluster(made), "resume", None, NOW).value == f"resume {TWO} {STAMP}"


def test_a_rejected_revision_is_retried_by_name_and_by_default_the_latest():
    made = world(second=False)
    made.golden = {name: agreement(20, 5) for name in TASKS}
    made.trained(TWO, TASKS).settle()
    for revision in (None, TWO):
        change = change_for(cluster(made), "retry", revision, NOW)
        assert (change.annotation, change.value) == (RETRY_ANNOTATION, f"{TWO} {STAMP}")


def test_the_end_of_a_rollback_removes_the_annotation():
    change = change_for(cluster(world(), **{ROLLBACK_ANNOTATION: ONE}), "undo", None, NOW)
    assert (change.annotation, change.value) == (ROLLBACK_ANNOTATION, None)


KEEP = f"To keep it when a newer one is trained, set spec.serving.pinnedRevision to {ONE}"
#: sentence, whether a second revision is on its way, action, revision given, the message
NOTHING = [
    ("no rollout", False, "pause", None, OVER),
    ("an abort after the end", False, "abort", None, f"{OVER}: mtm rollback desk goes back to an earlier revision"),
    ("another revision", True, "promote", ONE, f"the rollout under way is that of revision {TWO}, not of {ONE}"),
    ("not paused", True, "resume", None, f"the rollout of revision {TWO} is not paused: {WAITING}"),
    ("nothing before", False, "rollback", None,
     f"desk has had no other revision; there is none to go back to (kept: {ONE} (served))"),
    ("the only revision", False, "rollback", ONE,
     f"revision {ONE} answers every task already; there is no other one to go back to (kept: {ONE} (served)). {KEEP}"),
    ("no such revision", True, "rollback", "0000000f",
     f"desk has no revision 0000000f: kept: {TWO} (served) and {ONE} (served)"),
    ("no rollback", True, "undo", None,
     "no rollback of desk is ordered; the newest revision is served or rolled out"),
    ("nothing rejected", True, "retry", None, "no revision of desk is rejected"),
    ("not rejected", True, "retry", ONE, f"revision {ONE} of desk is not rejected: none is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("second", "action", "revision", "message"), [row[1:] for row in NOTHING], ids=[row[0] for row in NOTHING]
)
def test_nothing_to_order(second, action, revision, message):
    with pytest.raises(NothingToOrder) as caught:
        change_for(cluster(world(second)), action, revision, NOW)
    assert str(caught.value) == message


def test_a_rollback_to_the_revision_that_answers_lists_the_others():
    made = world()
    made.order("promote")
    made.settle()
    with pytest.raises(NothingToOrder) as caught:
        change_for(cluster(made), "rollback", TWO, NOW)
    listed = f"name another: mtm rollback desk REVISION (kept: {TWO} (served) and {ONE})"
    assert str(caught.value).startswith(f"revision {TWO} answers every task already; {listed}. ")
    with pytest.raises(NothingToOrder, match=f"a rollback to revision {ONE} is ordered already; it holds until"):
        change_for(cluster(made, **{ROLLBACK_ANNOTATION: ONE}), "rollback", ONE, NOW)


def test_a_model_without_a_table_has_no_rollout():
    empty = ClusterState(NAMESPACE, MODEL, {"metadata": {"name": MODEL}})
    with pytest.raises(NothingToOrder, match="no rollout of desk is under way"):
        change_for(empty, "pause", None, NOW)
    assert rollout_status.as_data(empty, None, {})["rollout"] is None


def test_the_status_shows_who_answers_what_and_what_is_waited_for():
    made = world(second=False)
    made.flips = {"urgency": TaskFlips(compared=500, right_to_wrong=10, wrong_to_right=60, basis="TestRows")}
    made.trained(TWO, TASKS).settle()
    made.send("urgency", ONE, 500)
    made.send("urgency", TWO, 60, errors=30)
    made.settle()
    seen = cluster(made)
    route = read_route(seen.task_route)
    assert route is not None
    data = rollout_status.as_data(seen, route, revision_states(seen))
    assert data["tasks"] == [
        {"name": "urgency", "weights": {ONE: 100}},
        {"name": "stance", "weights": {ONE: 90, TWO: 10}},
    ]
    assert [item["task"] for item in data["rejected"]] == ["urgency"]
    assert rollout_status.headline(made.status.rollout) == (
        f"revision {TWO}, before it {ONE}: Progressing: step 1 of 3 (10 %): too few requests yet for stance"
    )
    assert rollout_status.task_rows(route)[0] == (
        "urgency",
        f"{ONE} 100 %",
        "Failed",
        "–",
        "+60 −10 of 500",
        "50.0 % of 60 requests failed, 0.0 % before; 1 point more is allowed",
    )


def test_next_step_of_a_pause_is_to_resume_and_of_a_failure_to_retry():
    made = world()
    made.order("pause")
    made.settle()
    assert rollout_status.next_step(cluster(made), made.status.rollout).startswith("mtm rollout resume desk -n team-a")
    made.order("abort")
    made.settle()
    assert rollout_status.next_step(cluster(made), made.status.rollout) == "mtm rollout retry desk -n team-a"


@pytest.mark.parametrize("words", [["rollout", "status"], ["rollout", "pause"], ["rollback"]])
def test_a_model_has_to_be_named(words, capsys):
    assert cli.invoke(words) == 2
    assert "NAME" in capsys.readouterr().err


def test_an_end_of_a_rollback_takes_no_revision(capsys):
    assert cli.invoke(["rollback", "desk", ONE, "--undo"]) == 2
    assert "--undo takes no revision" in capsys.readouterr().err


@pytest.mark.parametrize("message", [None, "Older models have the names urgency (it is a/b/urgency); call …"])
def test_names_that_an_older_model_has_are_told(message, monkeypatch, capsys):
    seen = cluster(world(False))
    condition = {"type": "NameTaken", "status": "True", "reason": "NameTaken", "message": message}
    seen.model["status"] = {"conditions": [condition] if message else []}
    monkeypatch.setattr(rollout_status, "read_model", lambda *_: seen)
    rollout_status.status(MODEL, None, as_json=False)
    assert ("Older models have the names" in capsys.readouterr().out) == (message is not None)
    data = rollout_status.as_data(seen, read_route(seen.task_route), revision_states(seen))
    assert data["namesTaken"] == message
