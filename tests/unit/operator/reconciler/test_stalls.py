"""Kubernetes waits for ever for a lost node, an evicted pod or a program that hangs: each has a reason in minutes."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import DISRUPTIONS_KEY, PROGRESS_KEY
from multitask_api.stage_io.manifest import StageProgress
from multitask_operator.reconciler.stalls import (
    NO_PROGRESS_SECONDS,
    NODE_LOST_SECONDS,
    NOT_SCHEDULED_SECONDS,
    not_scheduled,
)
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.reconciler.state.disruptions import Disruptions
from support.graph_builders import task
from support.pods import evicted, node_silent, pod, running, terminating, unseen
from support.simulation import Cluster, run_until, show


def at_a_baseline():
    cluster = Cluster(task("urgency"), training={"activeDeadlineSeconds": 7200})
    run_until(cluster, "baseline")
    return cluster, cluster.jobs("baseline")[0]


def report(cluster, name, updated, step=120):
    progress = StageProgress(stage="baseline/urgency/seed-17", phase="train", step=step, total=4000, updated=updated)
    cluster.objects["ConfigMap", name]["data"][PROGRESS_KEY] = progress.model_dump_json(by_alias=True)


#: What a pod shows, and the seconds after which Ready has the reason.
SIGHTS = [
    ("no scheduler", unseen, NOT_SCHEDULED_SECONDS, "NotScheduled"),
    ("a node that does not answer", node_silent, NODE_LOST_SECONDS, "NodeLost"),
    ("a deleted pod that stays", terminating, NODE_LOST_SECONDS, "NodeLost"),
    ("a program that says nothing", running, NO_PROGRESS_SECONDS, "NoProgress"),
]


@pytest.mark.parametrize(("sentence", "sight", "limit", "reason"), SIGHTS, ids=[row[0] for row in SIGHTS])
def test_the_reason_comes_after_its_limit_and_not_before(sentence, sight, limit, reason):
    cluster, name = at_a_baseline()
    began = cluster.now
    show(cluster, sight(name, began))
    cluster.now = began + limit - 5
    wait = cluster.reconcile().requeue_after
    assert cluster.condition("Ready")["reason"] == "NotTrained"
    assert wait <= 6, "it is looked at again in time"
    cluster.now = began + limit + 1
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == reason
    assert (cluster.condition("Progressing")["status"], cluster.model["status"]["stage"]) == ("False", "Blocked")
    assert ("Warning", reason) in cluster.events
    cluster.now += 120
    written = cluster.written
    cluster.settle()
    assert cluster.written == written, "its message does not change with the time"
    cluster.objects.pop(("Pod", "p"))
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "NotTrained"


@pytest.mark.parametrize(
    ("sight", "limit", "is_stalled"), [(node_silent, NODE_LOST_SECONDS, True), (running, NO_PROGRESS_SECONDS, False)]
)
def test_a_program_that_says_nothing_may_be_at_work_and_is_not_stalled_for_gitops(sight, limit, is_stalled):
    """Flux gives up at once on what is Stalled."""
    cluster, name = at_a_baseline()
    show(cluster, sight(name, cluster.now))
    cluster.now += limit + 1
    cluster.settle()
    (condition,) = [
        item for item in cluster.model["status"]["conditions"] if item["type"] in ("Stalled", "Reconciling")
    ]
    assert condition["type"] == ("Stalled" if is_stalled else "Reconciling")
    assert condition["status"] == "True"
    assert condition["reason"] == cluster.condition("Ready")["reason"]


def test_a_pod_with_a_gate_a_node_or_a_verdict_of_a_scheduler_is_not_unseen():
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    seen = unseen("j", 0.0, name="gated", conditions=conditions), pod("j", "Pending"), unseen("j", 900.0, name="new")
    assert not_scheduled(seen, 1000.0) is None
    assert not_scheduled([*seen, unseen("j", 0.0)], 1000.0).reason == "NotScheduled"


def test_the_message_names_the_node_and_the_step():
    cluster, name = at_a_baseline()
    show(cluster, node_silent(name, cluster.now, node="gpu-7"))
    cluster.now += NODE_LOST_SECONDS + 1
    cluster.settle()
    message = cluster.condition("Ready")["message"]
    assert "Pod p is on node 'gpu-7', which has not answered since 20" in message
    assert "kubectl delete pod --force" in message

    cluster, name = at_a_baseline()
    show(cluster, unseen(name, cluster.now, scheduler="gangs"))
    cluster.now += NOT_SCHEDULED_SECONDS + 1
    cluster.settle()
    message = cluster.condition("Ready")["message"]
    assert "Pod p: scheduler 'gangs' has not looked at it since 20" in message
    assert "correct schedulerName in training.podTemplate or podTemplates" in message

    cluster, name = at_a_baseline()
    show(cluster, running(name, cluster.now))
    report(cluster, name, cluster.now + 60)
    cluster.now += 60 + NO_PROGRESS_SECONDS + 1
    cluster.settle()
    assert "(step 120 of 4000)" in cluster.condition("Ready")["message"]


@pytest.mark.parametrize("ahead", [60.0, 1e9], ids=["a minute", "thirty years"])
def test_a_pod_whose_clock_is_ahead_is_no_alarm(ahead):
    cluster, name = at_a_baseline()
    show(cluster, running(name, cluster.now))
    cluster.now += 2000
    report(cluster, name, cluster.now + ahead)
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "NotTrained"


def test_a_new_attempt_begins_its_own_count():
    cluster, name = at_a_baseline()
    report(cluster, name, cluster.now)
    cluster.now += 5000
    show(cluster, running(name, cluster.now - 10))
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "NotTrained"


@pytest.mark.parametrize(("count", "is_named"), [(4, False), (5, True), (9, True)])
@pytest.mark.parametrize("runs", [True, False])
def test_evictions_are_named_from_the_fifth_on(count, is_named, runs):
    cluster, name = at_a_baseline()
    show(cluster, *(evicted(name, number) for number in range(count)))
    show(cluster, running(name, cluster.now) if runs else pod(name, "Pending"))
    cluster.settle()
    ready = cluster.condition("Ready")
    assert (ready["reason"] == "Evicted") is is_named
    if is_named:
        assert (
            f"{count} of its pods were ended from outside, the last: The node was low on resource: memory;"
            in (ready["message"])
        )
    assert cluster.condition("Progressing")["status"] == "True", "its Job goes on"


ENDINGS = {
    "drained": "Eviction API: evicting",
    "preempted": "default-scheduler: preempting to accommodate a higher priority pod",
    "of a lost node": "Taint manager: deleting due to NoExecute taint",
}


def drained(job, number, why, at):
    """Its condition tells why while it ends; the API server removes it then."""
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": why}
    item = pod(job, "Running", name=f"d-{number}", conditions=[disrupted])
    item["metadata"] |= {"creationTimestamp": format_time(at), "deletionTimestamp": format_time(at + 30)}
    return item


@pytest.mark.parametrize("kind", ["resolve", "baseline"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_pods_that_are_removed_when_they_have_ended_are_counted(ending, kind):
    cluster = Cluster(task("urgency"))
    run_until(cluster, kind)
    (name,) = cluster.jobs(kind)
    for number in range(1, 8):
        cluster.now += 3
        show(cluster, drained(name, number, ENDINGS[ending], cluster.now))
        cluster.settle()
        written = cluster.written
        cluster.settle()
        assert cluster.written == written, "each is written down once"
        cluster.objects.pop(("Pod", f"d-{number}"))
        cluster.settle()
        ready = cluster.condition("Ready")
        assert (ready["reason"] == "Evicted") is (number >= 5)
        if number >= 5:
            assert f"{number} of its pods were ended from outside, the last: {ENDINGS[ending]};" in ready["message"]
    data = cluster.objects["ConfigMap", name]["data"]
    assert json.loads(data[DISRUPTIONS_KEY])["count"] == 7
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"uids": 3}', '{"count": "many", "uids": []}'])
def test_a_count_that_was_edited_by_hand_begins_again(text):
    cluster, name = at_a_baseline()
    cluster.objects["ConfigMap", name]["data"][DISRUPTIONS_KEY] = text
    show(cluster, *(drained(name, number, "drained", cluster.now) for number in range(5)))
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "Evicted"


def test_what_is_remembered_is_bounded():
    known = Disruptions()
    for number in range(1000):
        known = known.with_pods([drained("j", number, "x" * 5000, 1_800_000_000 + number)])
        assert known.with_pods([drained("j", number, "x", 1_800_000_000)]) == known
    assert (known.count, Disruptions.read(known.to_text())) == (1000, known)
    assert len(known.to_text().encode()) < 4096


def test_a_deadline_is_the_jobs_own():
    cluster, name = at_a_baseline()
    assert cluster.objects["Job", name]["spec"]["activeDeadlineSeconds"] == 7200
    resolve = Cluster(task("urgency"), training={"activeDeadlineSeconds": 7200})
    resolve.settle()
    assert "activeDeadlineSeconds" not in resolve.objects["Job", resolve.jobs()[0]]["spec"]
    cluster.end(name, "Failed", "Job was active longer than specified deadline")
    cluster.settle()
    assert "longer than specified deadline" in cluster.condition("Ready")["message"]
