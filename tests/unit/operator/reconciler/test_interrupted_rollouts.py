"""A rollout during which the operator is killed, is not answered, is refused, or has a twin: the same end, and somebody
answers every task all the time. What goes wrong is every single write of the rollout, one after the other."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial

import pytest

from multitask_api.bundle import BASELINE
from multitask_operator.reconciler.actions import PatchStatus
from support.busy_cluster import FAILED, KILLED, MIXTURE, REFUSED, SINGLE, UNROUTED, BusyCluster
from support.graph_builders import task
from support.rollout_ends import before_the_next_revision, end_state, serve_beside_a_late_operator

TASKS = (task(MIXTURE), task(SINGLE), task(UNROUTED))
PODS = {"podTemplate": {"spec": {"priorityClassName": "high"}}}
_KNOWN: dict[str, BusyCluster] = {}


def other_pods(cluster):
    cluster.edit(*copy.deepcopy(TASKS), serving={"replicas": 2, **PODS})


def one_task_fails(cluster):
    """The mixture fails in the new revision as soon as there is traffic."""
    other_pods(cluster)
    before = set(cluster.records)
    cluster.fails = lambda name, revision: name == MIXTURE and revision not in before


def everything_fails(cluster):
    other_pods(cluster)
    before = set(cluster.records)
    cluster.fails = lambda name, revision: revision not in before


def one_task_less(cluster):
    cluster.edit(copy.deepcopy(TASKS[0]), serving={"replicas": 2})


GOES_WELL = "it goes well"
ROLLOUTS = {
    GOES_WELL: (other_pods, "Successful"),
    "a task is rolled back": (one_task_fails, "Successful"),
    "every task is rolled back": (everything_fails, "Failed"),
    "a task is removed": (one_task_less, "Successful"),
}


#: What people have to learn of.
EVENTS = {
    GOES_WELL: {"RolloutStarted", "RevisionVerified", "RolloutStep", "RolloutSuccessful"},
    "a task is rolled back": {"TaskRolledBack", "RolloutSuccessful"},
    "every task is rolled back": {"TaskRolledBack", "RolloutFailed"},
    "a task is removed": {"RolloutStarted", "RolloutSuccessful"},
}


def begun(rollout: str) -> BusyCluster:
    """Right before the operator makes the new revision."""
    if rollout not in _KNOWN:
        cluster = BusyCluster(*copy.deepcopy(TASKS), serving={"replicas": 2})
        cluster.serve()
        ROLLOUTS[rollout][0](cluster)
        cluster.promised = frozenset({MIXTURE, SINGLE} & {item["name"] for item in cluster.model["spec"]["tasks"]})
        _KNOWN[rollout] = before_the_next_revision(cluster)
    cluster = copy.deepcopy(_KNOWN[rollout])
    cluster.writes, cluster.created = [], []
    cluster.answered.clear()
    return cluster


def assert_answered(cluster: BusyCluster):
    """Every request was, to its end, by models that the routing rule allows, and of at most two revisions."""
    assert cluster.unanswered == []
    assert cluster.cut == []
    assert cluster.wrong == []
    assert cluster.most_live <= 2
    assert {name for name, _ in cluster.answered} >= {MIXTURE}
    assert {served_by for name, served_by in cluster.answered if name == SINGLE} <= {BASELINE}
    assert UNROUTED not in {name for name, _ in cluster.answered}


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_what_is_interrupted_is_a_whole_rollout(rollout):
    cluster = begun(rollout)
    before = cluster.weights
    cluster.serve()
    assert cluster.route["status"]["rollout"]["phase"] == ROLLOUTS[rollout][1]
    assert (cluster.weights == before) is (rollout == "every task is rolled back")
    assert cluster.most_live == 2
    assert len(cluster.writes) > 15
    assert_answered(cluster)


@pytest.mark.parametrize("kind", [KILLED, FAILED, REFUSED])
def test_any_write_may_go_wrong(kind):
    expected = begun(GOES_WELL)
    expected.serve()
    for number, write in enumerate(expected.writes, start=1):
        cluster = begun(GOES_WELL)
        cluster.fault = (number, kind)
        cluster.serve()
        assert end_state(cluster) == end_state(expected), f"write {number} was {kind}: {write}"
        assert_answered(cluster)


@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_no_operator_lives_for_longer_than_a_few_writes(rollout, writes):
    expected, cluster = begun(rollout), begun(rollout)
    expected.serve()
    cluster.serve(look=partial(cluster.reconcile, actions=writes))
    assert end_state(cluster) == end_state(expected)
    assert_answered(cluster)


@pytest.mark.parametrize("looks", [0, 2])
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_two_operators_of_which_one_is_late_do_not_flap(rollout, looks):
    expected, cluster = begun(rollout), begun(rollout)
    expected.serve()
    serve_beside_a_late_operator(cluster, looks)
    assert end_state(cluster) == end_state(expected)
    assert_answered(cluster)
    written = cluster.written
    for _ in range(5):
        cluster.reconcile()
        cluster.reconcile(stale=cluster.observe())
        cluster.now += 600
    assert cluster.written == written


class Contested(BusyCluster):
    """Somebody, an autoscaler for example, writes the model before the operator writes its status, every other time."""

    tries = 0

    def _is_late(self, action) -> bool:
        self.tries += isinstance(action, PatchStatus)
        return super()._is_late(action) or (isinstance(action, PatchStatus) and self.tries % 2 == 1)


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_every_event_is_posted_once_although_others_write_the_model_meanwhile(rollout):
    expected, cluster = begun(rollout), begun(rollout)
    cluster.__class__ = Contested
    expected.serve()
    cluster.serve()
    assert cluster.tries > 10
    assert end_state(cluster) == end_state(expected)
    assert Counter(cluster.events) == Counter(expected.events)
    assert {reason for _, reason in cluster.events} >= EVENTS[rollout]
