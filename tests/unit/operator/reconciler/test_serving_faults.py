"""What may happen around servers, in a sentence each: callers are answered or not, one reason says why, and when the
cause is gone everything goes on by itself."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from multitask_api.serving_io.names import ROUTE_COPY_KEY
from multitask_operator.reconciler.state.accessors import format_time
from support.busy_cluster import MIXTURE, SINGLE, UNROUTED, BusyCluster, Interrupted
from support.graph_builders import task

TASKS = (task(MIXTURE), task(SINGLE), task(UNROUTED))
PODS = {"podTemplate": {"spec": {"priorityClassName": "high"}}}
COPY = "desk-serve-routes"
OLD = "2020-01-01T00:00:00Z"
_KNOWN: dict[int, BusyCluster] = {}


def served(replicas=2):
    """A cluster that serves and is asked all the time; what it takes to get there is done once."""
    if replicas not in _KNOWN:
        cluster = BusyCluster(*copy.deepcopy(TASKS), serving={"replicas": replicas})
        cluster.serve()
        cluster.promised = frozenset({MIXTURE, SINGLE})
        _KNOWN[replicas] = cluster
    return copy.deepcopy(_KNOWN[replicas])


def roll_out(cluster, replicas=2):
    cluster.edit(*copy.deepcopy(TASKS), serving={"replicas": replicas, **PODS})


def old_one(cluster):
    """The revision that was there first."""
    return next(iter(cluster.records))


def of_new(cluster, kind):
    """The objects of that kind that belong to the revision that is rolled out."""
    new = [name for name in cluster.records if name != old_one(cluster)][-1]
    return [item for (sort, name), item in cluster.objects.items() if sort == kind and name.endswith(new)]


def said(cluster, condition):
    found = cluster.condition(condition)
    return found["status"], found["reason"]


def pods_of(cluster, revision):
    return [item for (kind, name), item in cluster.objects.items() if kind == "Pod" and f"-{revision}-" in name]


def set_pods(cluster, revision, status):
    for pod in pods_of(cluster, revision):
        pod["status"] = {"phase": "Pending", **status}
        pod["metadata"]["creationTimestamp"] = OLD


def ended(container, code, message="", reason="Error"):
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"exitCode": code, "message": message, "reason": reason}}
    group = "initContainerStatuses" if container == "fetch" else "containerStatuses"
    return {group: [{"name": container, "image": "i", "state": waiting, "lastState": last}]}


# -- servers of a new revision that do not start -----------------------------------------------------------------------


def refuse_pods(cluster, message):
    """The ReplicaSet gets no pod."""
    (deployment,) = of_new(cluster, "Deployment")
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    deployment["status"]["conditions"] = [failure]
    for pod in pods_of(cluster, deployment["metadata"]["name"].rpartition("-")[2]):
        del cluster.objects["Pod", pod["metadata"]["name"]]


def overdue(cluster):
    (deployment,) = of_new(cluster, "Deployment")
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    deployment["status"]["conditions"] = [late]


def new_pods(**status):
    def change(cluster):
        for revision in set(cluster.records) - {old_one(cluster)}:
            set_pods(cluster, revision, status)

    return change


def cannot_mount(cluster):
    new_pods()(cluster)
    for revision in set(cluster.records) - {old_one(cluster)}:
        for pod in pods_of(cluster, revision):
            cluster.warnings[pod["metadata"]["uid"]] = 'MountVolume.SetUp failed: claim "models" is not bound'


QUOTA = 'pods "x" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4'
NOT_STARTED = [
    ("its memory is too small", new_pods(**ended("server", 137, reason="OOMKilled")), "ServerOutOfMemory", "memory"),
    ("its bundle is corrupt", new_pods(**ended("fetch", 2, "digest differs")), "FetchFailed", "digest differs"),
    ("its program ends", new_pods(**ended("server", 1, "no stub")), "ServerFailed", "no stub"),
    ("its servers never get ready", overdue, "ServersNotReady", "kubectl logs deployment/"),
    ("a quota is exceeded", lambda cluster: refuse_pods(cluster, QUOTA), "QuotaExceeded", "exceeded quota: team"),
    ("admission refuses pods", lambda cluster: refuse_pods(cluster, "denied: no label"), "PodRefused", "no label"),
    ("no scheduler looks at its pods", new_pods(), "NotScheduled", "correct schedulerName in spec.serving.podTemplate"),
    ("its storage cannot be mounted", cannot_mount, "PodWarning", '"models" is not bound'),
]


@pytest.mark.parametrize(
    ("breaks", "reason", "words"), [row[1:] for row in NOT_STARTED], ids=[row[0] for row in NOT_STARTED]
)
def test_a_new_revision_that_does_not_start_says_why_while_the_old_one_answers(breaks, reason, words):
    cluster = served()
    old = old_one(cluster)
    cluster.starts = lambda revision: revision == old
    roll_out(cluster)
    cluster.serve()
    breaks(cluster)
    cluster.settle()
    assert said(cluster, "Ready") == ("True", "Serving")
    assert said(cluster, "Reconciling") == ("True", reason)
    message = cluster.condition("Reconciling")["message"]
    assert "0 of 2 servers are ready" in message
    assert words in message
    assert set(cluster.weights[MIXTURE]) == {old}

    cluster.starts = lambda revision: True
    cluster.warnings = {}
    cluster.serve()
    assert old not in cluster.weights[MIXTURE]
    assert "Reconciling" not in {item["type"] for item in cluster.model["status"]["conditions"]}
    assert (cluster.unanswered, cluster.cut, cluster.wrong) == ([], [], [])


# -- what nobody notices -----------------------------------------------------------------------------------------------


def nothing(cluster):
    """As it was."""


def restart_gateways(cluster):
    """All of them at once: what they had counted is lost."""
    cluster.counts.clear()


def delete_table(cluster):
    del cluster.objects["TaskRoute", "desk"]


def wipe_status(cluster):
    cluster.route["status"] = {}
    cluster._touch(cluster.route)


def delete_new(kind):
    def delete(cluster):
        for item in of_new(cluster, kind):
            del cluster.objects[kind, item["metadata"]["name"]]

    return delete


def lose_writes(cluster):
    """For a minute no write reaches the API server."""
    until, write = cluster.now + 60, cluster._write

    def lost(action):
        if cluster.now < until:
            cluster.now += 5  # the operator waits a little before it tries again
            raise Interrupted
        write(action)

    cluster._write = lost


UNNOTICED = [
    ("nothing", nothing),
    ("all gateways restart", restart_gateways),
    ("the status of the table is wiped", wipe_status),
    ("the table is deleted", delete_table),
    ("the new revision's Deployment is deleted", delete_new("Deployment")),
    ("the new revision's Service is deleted", delete_new("Service")),
    ("the new revision's record is deleted", delete_new("ConfigMap")),
    ("the API server is away", lose_writes),
]


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("breaks", [row[1] for row in UNNOTICED], ids=[row[0] for row in UNNOTICED])
def test_in_the_middle_of_a_rollout_callers_notice_nothing_and_it_comes_to_its_end(breaks, step):
    cluster = served()
    old = old_one(cluster)
    roll_out(cluster)
    until_step(cluster, step)
    breaks(cluster)
    cluster.serve()
    assert said(cluster, "Ready") == ("True", "Serving")
    assert old not in cluster.weights[MIXTURE]
    assert cluster.replicas[old] == 0
    assert (cluster.unanswered, cluster.cut, cluster.wrong) == ([], [], [])
    assert cluster.most_live == 2


def until_step(cluster, step, limit=60):
    """Until the traffic moves, and it is that step's turn."""
    for _ in range(limit):
        rollout = cluster.route["status"].get("rollout") or {}
        if rollout.get("stepStarted") and rollout.get("phase") == "Progressing" and rollout["step"] == step:
            return
        cluster.reconcile()
        if cluster.jobs():
            cluster.finish(cluster.jobs()[0])
        cluster.run_servers()
        cluster.now += 5
    raise AssertionError(f"step {step} does not come: {cluster.route['status']['rollout']}")


def without_tasks(spec):
    spec["tasks"] = []


def without_weights(spec):
    for entry in spec["tasks"]:
        for backend in entry["backends"]:
            backend["weight"] = 0


def to_nowhere(spec):
    spec["tasks"][0]["backends"][0] |= {"revision": "none", "service": "none"}


@pytest.mark.parametrize("edit", [without_tasks, without_weights, to_nowhere])
def test_a_table_that_somebody_edits_is_what_it_was_at_once(edit):
    cluster = served()
    before, jobs = cluster.weights, len(cluster.job_runs)
    edit(cluster.route["spec"])
    cluster.route["metadata"]["generation"] += 1
    cluster._touch(cluster.route)
    cluster.settle()
    assert cluster.weights == before
    assert len(cluster.job_runs) == jobs


def test_storage_that_is_gone_stops_no_server():
    cluster = served()
    cluster.pvcs = {"models": None}
    cluster.serve()
    assert said(cluster, "Ready") == ("True", "Serving")
    assert sorted(cluster.replicas.values()) == [2]
    assert cluster.unanswered == []


def test_a_new_revision_waits_for_storage_that_is_gone_and_says_so():
    cluster = served()
    old = old_one(cluster)
    cluster.pvcs, pvcs = {"models": None}, cluster.pvcs
    roll_out(cluster)
    cluster.serve()
    assert said(cluster, "Ready") == ("True", "Serving")
    assert cluster.condition("Progressing")["reason"] in ("ClaimMissing", "Blocked")
    assert "'models' does not exist" in cluster.condition("Progressing")["message"]
    cluster.pvcs = pvcs
    cluster.serve()
    assert old not in cluster.weights[MIXTURE]
    assert cluster.unanswered == []


# -- gateways that do not follow, servers that die ---------------------------------------------------------------------


def test_a_gateway_that_hangs_holds_the_rollout_and_is_named():
    cluster = served()
    old = old_one(cluster)
    follow = cluster.follow
    cluster.follow = lambda gateway: gateway != "gateway-b" and follow(gateway)
    cluster._is_behind = lambda gateway: gateway != "gateway-b" and BusyCluster._is_behind(cluster, gateway)
    roll_out(cluster)
    cluster.serve()
    assert said(cluster, "Ready") == ("True", "Serving")
    assert said(cluster, "Reconciling") == ("True", "WaitingForGateways")
    assert "gateway-b" in cluster.condition("Reconciling")["message"]
    assert cluster.replicas[old] == 2

    del cluster.follow, cluster._is_behind
    cluster.serve()
    assert old not in cluster.weights[MIXTURE]
    assert (cluster.unanswered, cluster.cut) == ([], [])


@pytest.mark.parametrize("replicas", [1, 2])
def test_with_one_server_its_death_is_noticed_until_the_next_one_is_ready(replicas):
    cluster = served(replicas)
    (endpoints,) = [item for (kind, _), item in cluster.objects.items() if kind == "EndpointSlice"]
    endpoints["endpoints"] = endpoints["endpoints"][1:]
    cluster.settle()
    expected = ("False", "ServersStarting") if replicas == 1 else ("True", "Serving")
    assert said(cluster, "Ready") == expected
    cluster.serve()
    assert said(cluster, "Ready") == ("True", "Serving")


def test_a_server_of_the_new_revision_that_ends_by_itself_holds_the_step_and_says_so():
    cluster = served()
    roll_out(cluster)
    until_step(cluster, 0)
    before = dict(cluster.weights[MIXTURE])
    (new,) = set(cluster.records) - {old_one(cluster)}
    set_pods(cluster, new, ended("server", 139))
    for _ in range(20):
        cluster.now += 60
        cluster.settle()
    assert cluster.weights[MIXTURE] == before
    assert "ended by itself" in cluster.route["status"]["rollout"]["message"]
    cluster.serve()
    assert set(cluster.weights[MIXTURE]) == {new}


def test_a_model_with_one_server_is_rolled_out_without_a_gap():
    cluster = served(1)
    old = old_one(cluster)
    roll_out(cluster, 1)
    cluster.serve()
    assert old not in cluster.weights[MIXTURE]
    assert (cluster.unanswered, cluster.cut) == ([], [])


def test_a_verification_that_cannot_run_moves_nothing_and_is_tried_again():
    cluster = served()
    old = old_one(cluster)
    roll_out(cluster)
    finish = cluster.finish

    def fail(name):
        if "verify" in name:
            cluster.end(name, "Failed", "BackoffLimitExceeded")
            cluster.objects["Job", name]["status"]["conditions"][0]["lastTransitionTime"] = format_time(cluster.now)
        else:
            finish(name)

    cluster.finish = fail
    with pytest.raises(AssertionError, match="no end"):
        cluster.serve(limit=40)
    assert said(cluster, "Ready") == ("True", "Serving")
    assert set(cluster.weights[MIXTURE]) == {old}

    del cluster.finish
    cluster.serve()
    assert old not in cluster.weights[MIXTURE]
    assert cluster.unanswered == []


def test_gateways_that_follow_no_table_are_named():
    cluster = BusyCluster(*copy.deepcopy(TASKS))
    cluster.gateways = ()
    cluster.serve()
    assert cluster.condition("Ready")["status"] == "False"
    assert said(cluster, "Ready")[1] == "NoGatewayPods"
    cluster.unreachable = ("gateway-a",)
    cluster.settle()
    assert said(cluster, "Ready")[1] == "GatewaysBehind"
    cluster.settings = dataclasses.replace(cluster.settings, gateway_address="")
    cluster.settle()
    assert said(cluster, "Ready") == ("False", "NoGateway")


@pytest.mark.parametrize("failing", [(MIXTURE, SINGLE), (MIXTURE,)])
@pytest.mark.parametrize("breaks", [wipe_status, delete_table])
def test_a_revision_that_was_rejected_gets_no_traffic_again_whatever_becomes_of_the_table(breaks, failing):
    cluster = served()
    old = old_one(cluster)
    roll_out(cluster)
    cluster.fails = lambda name, revision: name in failing and revision != old
    cluster.serve()
    weights, rejected = cluster.weights, cluster.route["status"]["rejected"]
    assert rejected
    breaks(cluster)
    cluster.counts.clear()
    cluster.serve()
    assert (cluster.weights, cluster.route["status"]["rejected"]) == (weights, rejected)
    assert not [key for key in cluster.counts if key[1] in failing and key[2] != old]
    assert (cluster.unanswered, cluster.cut, cluster.wrong) == ([], [], [])
    assert cluster.most_live == 2


def test_a_table_and_its_copy_do_not_outlive_the_model():
    cluster = served()
    (copy,) = (item for (kind, name), item in cluster.objects.items() if (kind, name) == ("ConfigMap", COPY))
    assert copy["metadata"]["ownerReferences"] == cluster.route["metadata"]["ownerReferences"]


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"spec": {"model": 7}}'])
def test_a_copy_that_is_gone_or_cannot_be_read_is_written_anew(text):
    cluster = served()
    before = copy.deepcopy(cluster.objects["ConfigMap", COPY]["data"])
    if text is None:
        del cluster.objects["ConfigMap", COPY]
    else:
        cluster.objects["ConfigMap", COPY]["data"] = {ROUTE_COPY_KEY: text}
    cluster.serve()
    assert cluster.objects["ConfigMap", COPY]["data"] == before
