"""Which servers wait for room that other servers hold, and since when: by what scheduler and quota say."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.serving.checks import no_room_since
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.reconciler.state.revision_state import RevisionState

CREATED, SINCE, LATER = 1_800_000_000.0, 1_800_000_010.0, 1_800_000_500.0


def pod(message="1 Insufficient cpu", *, reason="Unschedulable", phase="Pending", since=SINCE):
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": f"0/3 nodes: {message}."}
    if since is not None:
        condition["lastTransitionTime"] = format_time(since)
    metadata = {"name": "p", "uid": "u", "creationTimestamp": format_time(CREATED)}
    return {"kind": "Pod", "metadata": metadata, "status": {"phase": phase, "conditions": [condition]}}


def deployment(message="", replicas=2, status="True"):
    failure = {"type": "ReplicaFailure", "status": status, "message": message, "lastTransitionTime": format_time(SINCE)}
    return {"metadata": {"name": "d"}, "spec": {"replicas": replicas}, "status": {"conditions": [failure]}}


#: What kube-scheduler 1.27 to 1.34 says of nodes that others fill, and of those that do not suit.
FULL = [
    "3 Insufficient nvidia.com/gpu",
    "1 Insufficient memory, 2 node(s) had untolerated taint {spot: true}",
    "3 Too many pods",
    "1 cannot allocate all claims",
    "2 node(s) exceed max volume count",
    "1 node(s) didn't have free ports for the requested pod ports",
    "3 node(s) didn't match pod anti-affinity rules",
    "3 node(s) didn't satisfy existing pods anti-affinity rules",
    "1 node(s) didn't match pod topology spread constraints",
]
UNSUITABLE = [
    "3 node(s) had untolerated taint {gpu: true}",
    "3 node(s) didn't match Pod's node affinity/selector",
    "1 node(s) had volume node affinity conflict",
    "3 node(s) were unschedulable",
    "1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode in use",
]


@pytest.mark.parametrize("message", FULL)
def test_a_pod_waits_for_room_since_the_scheduler_says_so(message):
    assert no_room_since(RevisionState("a", pods=(pod(message),))) == SINCE


@pytest.mark.parametrize("message", UNSUITABLE)
def test_a_pod_that_suits_no_node_does_not_wait_for_room(message):
    assert no_room_since(RevisionState("a", pods=(pod(message),))) is None


@pytest.mark.parametrize(
    ("pods", "since"),
    [
        ((), None),
        ((pod(since=LATER), pod(since=SINCE)), SINCE),
        ((pod(since=None),), CREATED),
        ((pod(phase="Running"),), None),
        ((pod(reason="SchedulingGated"),), None),
        ((pod("2 node(s) had untolerated taint {a: b}"), pod(since=LATER)), LATER),
    ],
    ids=["no pod", "the first counts", "no time", "it runs", "a gate", "one suits no node"],
)
def test_the_pods_of_a_revision(pods, since):
    assert no_room_since(RevisionState("a", pods=pods)) == since


QUOTA = 'pods "x" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4'


@pytest.mark.parametrize(
    ("found", "pods", "since"),
    [
        (deployment(QUOTA), (), SINCE),
        (deployment(QUOTA), ({"metadata": {}, "status": {"phase": "Running"}},), SINCE),
        (deployment(QUOTA, replicas=1), ({"metadata": {}, "status": {"phase": "Running"}},), None),
        (deployment(QUOTA, status="False"), (), None),
        (deployment("denied: no label"), (), None),
    ],
    ids=["no pod", "one of two", "all are there", "it is over", "another policy"],
)
def test_a_quota_that_others_use_up_is_no_room_either(found, pods, since):
    assert no_room_since(RevisionState("a", deployment=found, pods=pods)) == since
