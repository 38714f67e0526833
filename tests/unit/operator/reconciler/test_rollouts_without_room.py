"""A cluster that has no room for two revisions: servers are exchanged one by one, or end before the next ones start."""

from __future__ import annotations

import copy
from functools import partial

import pytest

from multitask_api.serving_io.names import APPROVAL_ANNOTATION, ROLLOUT_ANNOTATION
from multitask_api.serving_io.verify import VERIFIED_KEY, RevisionReport
from support.busy_cluster import FAILED, KILLED, MIXTURE, SINGLE, UNROUTED
from support.graph_builders import task
from support.rollout_ends import before_the_next_revision, end_state, serve_beside_a_late_operator
from support.tight_cluster import TightCluster

TASKS = (task(MIXTURE), task(SINGLE), task(UNROUTED))
PODS = {"podTemplate": {"spec": {"priorityClassName": "high"}}}
TAINT = "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: true}."
_KNOWN: dict[str, TightCluster] = {}


def begun(replicas, room, **serving):
    """Right before the operator makes the second revision; all servers of the first one run if there is room."""
    serving = {"replicas": replicas, **serving}
    key = repr((serving, room))
    if key not in _KNOWN:
        cluster = TightCluster(*copy.deepcopy(TASKS), room=room, serving=serving)
        cluster.serve()
        if approval := cluster.model["status"].get("approval"):
            cluster.annotate(APPROVAL_ANNOTATION, approval)
            cluster.serve()
        cluster.edit(*copy.deepcopy(TASKS), serving=serving | PODS)
        cluster.promised = frozenset({MIXTURE, SINGLE})
        _KNOWN[key] = before_the_next_revision(cluster)
    cluster = copy.deepcopy(_KNOWN[key])
    cluster.writes, cluster.created, cluster.fewest = [], [], room
    cluster.answered.clear()
    return cluster


def old_one(cluster):
    return next(iter(cluster.records))


def new_one(cluster):
    return list(cluster.records)[-1]


def conditions(cluster):
    return {item["type"]: item for item in cluster.model["status"]["conditions"]}


def until(cluster, happens, limit=200):
    """Everything goes on, one look at a time, until that is so."""
    for _ in range(limit):
        if happens():
            return cluster
        look(cluster)
    raise AssertionError(f"it does not happen: {cluster.replicas} {cluster.route['status']['rollout']}")


def look(cluster):
    before = cluster.written
    wait = cluster.reconcile().requeue_after
    for name in cluster.jobs():
        cluster.finish(name)
    if not cluster.run_servers() and cluster.written == before:
        cluster.now += wait or 10


def gives_way(cluster):
    return (cluster.route["status"].get("rollout") or {}).get("givesWay")


def assert_nobody_noticed(cluster, replicas):
    """Every request was answered, and a server was missing at most."""
    assert (cluster.unanswered, cluster.unserved, cluster.cut, cluster.wrong) == ([], [], [], [])
    assert cluster.fewest >= replicas - 1
    assert cluster.most_live <= 2


def assert_rolled_out(cluster, replicas):
    old, new = old_one(cluster), new_one(cluster)
    assert cluster.replicas == {old: 0, new: replicas}
    assert cluster.ready[new] == min(replicas, cluster.room)
    assert cluster.weights[MIXTURE] == {new: 100}
    assert conditions(cluster)["Ready"]["status"] == "True"
    assert "Reconciling" not in conditions(cluster)


# -- servers are exchanged one by one ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "room", "steps"),
    [
        *((*size, [10, 50, 100]) for size in ((2, 2), (2, 3), (2, 4), (3, 3), (4, 4), (4, 5), (5, 5))),
        *((*size, [100]) for size in ((2, 2), (4, 4))),
        *((*size, [1, 34, 67, 99, 100]) for size in ((2, 2), (3, 4), (4, 4))),
    ],
    ids=str,
)
def test_servers_are_exchanged_and_one_is_missing_at_most(replicas, room, steps):
    cluster = begun(replicas, room, rollout={"steps": steps})
    cluster.serve()
    assert_rolled_out(cluster, replicas)
    assert_nobody_noticed(cluster, replicas)
    assert (gives_way(cluster) is None) is (room == 2 * replicas)


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_weight_is_never_more_than_the_part_of_the_ready_servers_that_the_revision_has(replicas):
    cluster = begun(replicas, replicas)
    seen = []

    def look():
        cluster.settle()
        old, new = old_one(cluster), new_one(cluster)
        weight = cluster.weights[MIXTURE].get(new, 0)
        if new != old and weight:
            kept = min(cluster.ready[old], cluster.replicas[old])
            seen.append((cluster.ready[new], cluster.ready[new] + kept, weight))

    cluster.serve(look=look)
    assert seen
    for ready, of, weight in seen:
        assert ready >= replicas - 1 or weight <= 100 * ready / of, seen


def test_nothing_gives_way_while_an_autoscaler_may_be_adding_a_node():
    cluster = begun(2, 2)
    until(cluster, lambda: len(cluster.records) == 2 and not cluster.ready.get(new_one(cluster), 1))
    start = cluster.now
    until(cluster, lambda: cluster.now > start + 100)
    assert cluster.replicas[old_one(cluster)] == 2
    cluster.room = 4
    until(cluster, lambda: cluster.ready[new_one(cluster)] == 2)
    assert cluster.replicas[old_one(cluster)] == 2
    cluster.serve()
    assert gives_way(cluster) is None
    assert_rolled_out(cluster, 2)
    assert_nobody_noticed(cluster, 2 + 1)


def test_room_that_comes_later_is_taken():
    cluster = begun(4, 4)
    until(cluster, lambda: cluster.ready.get(new_one(cluster)) == 1)
    cluster.room = 7
    cluster.serve()
    assert_rolled_out(cluster, 4)
    assert_nobody_noticed(cluster, 4)


@pytest.mark.parametrize("serving", [{"replicas": 2}, {"replicas": 1, "allowDowntime": True}], ids=["pods", "downtime"])
def test_nothing_gives_way_to_servers_that_would_not_run_in_its_place_either(serving):
    cluster = begun(room=serving["replicas"], **serving)
    cluster.unscheduled = TAINT
    cluster.serve()
    assert cluster.replicas == {old_one(cluster): serving["replicas"], new_one(cluster): serving["replicas"]}
    assert gives_way(cluster) is None
    assert conditions(cluster)["Reconciling"]["reason"] == "Unschedulable"
    assert "untolerated taint" in conditions(cluster)["Reconciling"]["message"]
    assert_nobody_noticed(cluster, serving["replicas"] + 1)


@pytest.mark.parametrize("weight", [10, 50])
def test_an_autoscaler_that_asks_for_more_servers_because_one_is_missing_stops_nothing(weight):
    cluster = begun(2, 2)
    until(cluster, lambda: cluster.weights[MIXTURE].get(new_one(cluster)) == weight)
    cluster.edit(*copy.deepcopy(TASKS), serving={"replicas": 4, **PODS})
    cluster.serve()
    assert_rolled_out(cluster, 4)
    assert_nobody_noticed(cluster, 2)


@pytest.mark.parametrize(("replicas", "room"), [(3, 2), (8, 3)])
def test_servers_that_had_no_room_before_are_not_missed(replicas, room):
    cluster = begun(replicas, room)
    cluster.serve()
    assert_rolled_out(cluster, replicas)
    assert_nobody_noticed(cluster, room)


def test_a_server_that_has_room_and_loads_its_model_for_long_makes_nobody_give_way():
    cluster = begun(2, 3)
    old = old_one(cluster)
    cluster.starts = lambda revision: revision == old
    until(cluster, lambda: len(cluster.records) == 2)
    later = cluster.now + 900
    until(cluster, lambda: cluster.now > later)
    assert (cluster.replicas[old], gives_way(cluster)) == (2, None)
    cluster.starts = lambda revision: True
    cluster.serve()
    assert_rolled_out(cluster, 2)
    assert_nobody_noticed(cluster, 2)


def test_a_paused_rollout_exchanges_nothing():
    cluster = begun(4, 4)
    until(cluster, lambda: cluster.weights[MIXTURE].get(new_one(cluster)) == 10)
    cluster.annotate(ROLLOUT_ANNOTATION, f"pause {new_one(cluster)} now")
    later = cluster.now + 1000
    until(cluster, lambda: cluster.now > later)
    assert cluster.replicas == {old_one(cluster): 3, new_one(cluster): 4}
    cluster.annotate(ROLLOUT_ANNOTATION, f"resume {new_one(cluster)} then")
    cluster.serve()
    assert_rolled_out(cluster, 4)
    assert_nobody_noticed(cluster, 4)


# -- and come back -----------------------------------------------------------------------------------------------------


def fails_under_traffic(cluster):
    old = old_one(cluster)
    cluster.fails = lambda name, revision: revision != old


def fails_verification(cluster):
    finish = cluster.finish

    def fail(name):
        finish(name)
        data = cluster.objects["ConfigMap", name].get("data", {})
        if VERIFIED_KEY in data:
            data[VERIFIED_KEY] = with_differences(data[VERIFIED_KEY])

    cluster.finish = fail


def with_differences(text):
    report = RevisionReport.model_validate_json(text)
    tasks = {
        name: each.model_copy(update={"equal": each.compared - 1, "different": 1})
        for name, each in report.result.tasks.items()
    }
    result = report.result.model_copy(update={"tasks": tasks})
    return report.model_copy(update={"result": result}).model_dump_json(by_alias=True)


def never_starts(cluster):
    old = old_one(cluster)
    cluster.starts = lambda revision: revision == old


BAD = [fails_under_traffic, fails_verification, never_starts]


@pytest.mark.parametrize("breaks", BAD)
@pytest.mark.parametrize("replicas", [2, 4])
def test_the_old_revision_gets_its_servers_back_if_the_new_one_is_rejected(replicas, breaks):
    cluster = begun(replicas, replicas)
    breaks(cluster)
    cluster.serve()
    old, new = old_one(cluster), new_one(cluster)
    assert cluster.replicas == {old: replicas, new: 0}
    assert cluster.ready[old] == replicas
    assert cluster.weights[MIXTURE] == {old: 100}
    assert cluster.model["status"]["serving"]["phase"] == "RevisionRejected"
    assert conditions(cluster)["Ready"]["status"] == "True"
    assert_nobody_noticed(cluster, replicas)


@pytest.mark.parametrize("weight", [0, 10, 50, 100])
def test_the_old_revision_gets_its_servers_back_if_a_person_aborts(weight):
    cluster = begun(2, 2)
    until(cluster, lambda: gives_way(cluster) and cluster.weights[MIXTURE].get(new_one(cluster), 0) == weight)
    cluster.annotate(ROLLOUT_ANNOTATION, f"abort {new_one(cluster)} now")
    cluster.serve()
    assert cluster.replicas == {old_one(cluster): 2, new_one(cluster): 0}
    assert cluster.weights[MIXTURE] == {old_one(cluster): 100}
    assert_nobody_noticed(cluster, 2)


@pytest.mark.parametrize("weight", [33, 66])
def test_the_servers_that_the_old_revision_misses_start_as_soon_as_no_gateway_uses_the_new_ones(weight):
    cluster = begun(4, 4)
    old = old_one(cluster)
    until(cluster, lambda: cluster.weights[MIXTURE].get(new_one(cluster), 0) == weight)
    cluster.annotate(ROLLOUT_ANNOTATION, f"abort {new_one(cluster)} now")
    until(cluster, lambda: cluster.weights[MIXTURE] == {old: 100})
    at = cluster.now
    until(cluster, lambda: cluster.ready[old] == 3)
    assert cluster.now < at + 50
    cluster.serve()
    assert (cluster.ready[old], cluster.replicas[new_one(cluster)]) == (4, 0)
    assert (cluster.unanswered, cluster.unserved, cluster.cut) == ([], [], [])


def other(env):
    container = {"name": "server", "env": [{"name": "A", "value": env}]}
    return {"podTemplate": {"spec": {"containers": [container]}}}


@pytest.mark.parametrize("weight", [33, 66])
def test_a_newer_revision_waits_until_so_many_servers_are_exchanged_that_the_old_one_could_not_take_over(weight):
    cluster = begun(4, 4)
    until(cluster, lambda: len(cluster.records) == 2 and cluster.weights[MIXTURE].get(new_one(cluster)) == weight)
    second = new_one(cluster)
    cluster.edit(*copy.deepcopy(TASKS), serving={"replicas": 4, **other("1")})
    cluster.serve()
    third = new_one(cluster)
    assert third not in (second, old_one(cluster))
    assert cluster.weights[MIXTURE] == {third: 100}
    assert {name: servers for name, servers in cluster.replicas.items() if servers} == {third: 4}
    assert_nobody_noticed(cluster, 4)
    assert ("Warning", "RolloutAborted") not in cluster.events


# -- downtime that the user allows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "room"), [(1, 1), (2, 1)])
def test_without_leave_the_old_servers_stay_and_the_next_step_is_named(replicas, room):
    cluster = begun(replicas, room)
    cluster.serve()
    assert cluster.replicas == {old_one(cluster): replicas, new_one(cluster): replicas}
    assert conditions(cluster)["Ready"]["status"] == "True"
    message = conditions(cluster)["Reconciling"]["message"]
    assert conditions(cluster)["Reconciling"]["reason"] == "NoGPUFree"
    assert "add room" in message
    assert "spec.serving.allowDowntime to true" in message
    assert ("spec.serving.replicas to 2 or more" in message) is (replicas == 1)
    assert "Insufficient nvidia.com/gpu" in message
    assert (cluster.unanswered, cluster.unserved) == ([], [])

    cluster.edit(*copy.deepcopy(TASKS), serving={"replicas": replicas, "allowDowntime": True, **PODS})
    cluster.serve()
    assert_rolled_out(cluster, replicas)


def test_with_leave_the_old_server_ends_and_the_status_says_what_goes_on():
    cluster = begun(1, 1, allowDowntime=True)
    seen = []

    def look():
        cluster.settle()
        ready = conditions(cluster)["Ready"]
        if ready["status"] == "False" and ready["message"] not in seen:
            assert ready["reason"] == "AllowedDowntime"
            seen.append(ready["message"])

    cluster.serve(look=look)
    assert_rolled_out(cluster, 1)
    assert all("Nobody answers intent and urgency, as spec.serving.allowDowntime allows" in each for each in seen)
    assert [word for each in seen for word in ("0 of 1 servers", "golden requests") if word in each] == [
        "0 of 1 servers",
        "golden requests",
    ]
    assert cluster.most_live <= 2
    assert cluster.route["status"]["rollout"]["givesWay"] == "Downtime"


@pytest.mark.parametrize("breaks", [fails_verification, never_starts])
def test_after_a_downtime_for_nothing_the_old_revision_answers_again(breaks):
    cluster = begun(1, 1, allowDowntime=True)
    breaks(cluster)
    cluster.serve()
    old, new = old_one(cluster), new_one(cluster)
    assert cluster.replicas == {old: 1, new: 0}
    assert cluster.ready[old] == 1
    assert cluster.weights[MIXTURE] == {old: 100}
    assert conditions(cluster)["Ready"]["status"] == "True"
    assert cluster.model["status"]["serving"]["phase"] == "RevisionRejected"


def test_a_revision_that_answers_one_task_wrong_is_rejected_as_a_whole_because_nobody_else_would_answer_it():
    cluster = begun(1, 1, allowDowntime=True)
    finish = cluster.finish

    def fail(name):
        finish(name)
        data = cluster.objects["ConfigMap", name].get("data", {})
        if VERIFIED_KEY in data:
            report = RevisionReport.model_validate_json(data[VERIFIED_KEY])
            wrong = RevisionReport.model_validate_json(with_differences(data[VERIFIED_KEY])).result.tasks[SINGLE]
            report.result.tasks[SINGLE] = wrong
            data[VERIFIED_KEY] = report.model_dump_json(by_alias=True)

    cluster.finish = fail
    cluster.serve()
    old = old_one(cluster)
    assert cluster.weights == {MIXTURE: {old: 100}, SINGLE: {old: 100}}
    assert cluster.ready[old] == 1
    assert "no room" in cluster.route["status"]["rollout"]["message"]


def test_a_person_who_has_to_approve_is_asked_before_nobody_answers():
    cluster = begun(1, 1, allowDowntime=True, approval="Manual")
    cluster.serve()
    assert cluster.replicas[old_one(cluster)] == 1
    assert (cluster.unanswered, cluster.unserved) == ([], [])
    assert conditions(cluster)["Reconciling"]["reason"] == "ApprovalNeeded"
    assert "before the servers of" in conditions(cluster)["Reconciling"]["message"]

    cluster.annotate(APPROVAL_ANNOTATION, cluster.model["status"]["approval"])
    cluster.serve()
    assert_rolled_out(cluster, 1)


def test_with_room_a_downtime_that_is_allowed_is_not_taken():
    cluster = begun(1, 2, allowDowntime=True)
    cluster.serve()
    assert_rolled_out(cluster, 1)
    assert_nobody_noticed(cluster, 2)


# -- the operator is interrupted ---------------------------------------------------------------------------------------

SITUATIONS = {
    "one by one": (partial(begun, 2, 2), None),
    "one by one of three": (partial(begun, 3, 3), None),
    "one by one, and back": (partial(begun, 2, 2), fails_under_traffic),
    "downtime": (partial(begun, 1, 1, allowDowntime=True), None),
    "downtime for nothing": (partial(begun, 1, 1, allowDowntime=True), fails_verification),
}


def started(situation):
    """Right before the old revision gives way."""
    make, breaks = SITUATIONS[situation]
    if situation not in _KNOWN:
        cluster = make()
        while not gives_way(cluster):
            _KNOWN[situation] = copy.deepcopy(cluster)
            look(cluster)
    cluster = copy.deepcopy(_KNOWN[situation])
    cluster.writes, cluster.created, cluster.fewest = [], [], cluster.room
    if breaks is not None:
        breaks(cluster)
    return cluster


def assert_as_ever(cluster, situation, expected):
    assert end_state(cluster) == end_state(expected)
    assert cluster.ready == expected.ready
    if "downtime" not in situation:
        assert_nobody_noticed(cluster, max(expected.replicas.values()))


@pytest.mark.parametrize(
    ("situation", "kind"),
    [("one by one", KILLED), ("downtime", FAILED)],
)
def test_any_write_may_go_wrong(situation, kind):
    expected = started(situation)
    expected.serve()
    for number, _ in enumerate(expected.writes, start=1):
        cluster = started(situation)
        cluster.fault = (number, kind)
        cluster.serve()
        assert_as_ever(cluster, situation, expected)


@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_no_operator_lives_for_longer_than_a_few_writes(situation, writes):
    expected, cluster = started(situation), started(situation)
    expected.serve()
    cluster.serve(look=partial(cluster.reconcile, actions=writes))
    assert_as_ever(cluster, situation, expected)


@pytest.mark.parametrize("looks", [0, 2])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_two_operators_of_which_one_is_late_do_not_flap(situation, looks):
    expected, cluster = started(situation), started(situation)
    expected.serve()
    serve_beside_a_late_operator(cluster, looks)
    assert_as_ever(cluster, situation, expected)
