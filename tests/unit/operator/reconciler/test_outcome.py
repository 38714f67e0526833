"""What programs wait for: ``kubectl wait``, and kstatus, by which Flux and others judge a resource."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.actions import Event
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.settings import Settings
from support.graph_builders import task
from support.simulation import SETTINGS, Cluster

WORKING, SUSPENDED = ("working", {}), ("suspended", {})


def waited(cluster, condition_type):
    """Whether ``kubectl wait --for=condition=TYPE`` returns: it takes no condition of an earlier generation."""
    for each in cluster.model.get("status", {}).get("conditions", ()):
        if each["type"] == condition_type:
            is_new = each["observedGeneration"] >= cluster.model["metadata"]["generation"]
            return is_new and each["status"] == "True"
    return False


def kstatus(cluster):
    """The generic rules of sigs.k8s.io/cli-utils/pkg/kstatus."""
    status = cluster.model.get("status", {})
    true = {each["type"] for each in status.get("conditions", ()) if each["status"] == "True"}
    if "deletionTimestamp" in cluster.model["metadata"]:
        return "Terminating"
    if status.get("observedGeneration") != cluster.model["metadata"]["generation"] or "Reconciling" in true:
        return "InProgress"
    return "Failed" if "Stalled" in true else "not decided"


def begun(**spec):
    cluster = Cluster(task("urgency"), **spec)
    cluster.settle()
    return cluster


def trained():
    cluster = Cluster(task("urgency"))
    cluster.to_the_end()
    return cluster


def failed():
    cluster = begun()
    cluster.finish(cluster.jobs()[0])
    cluster.settle()
    cluster.end(cluster.jobs()[0], "Failed", "it broke")
    cluster.settle()
    return cluster


def resolve_failed():
    cluster = begun()
    cluster.end(cluster.jobs()[0], "Failed", "it broke")
    cluster.settle()
    return cluster


def suspended():
    return begun(suspend=True)


def suspended_after_it_was_trained():
    cluster = trained()
    cluster.edit(task("urgency"), suspend=True)
    cluster.settle()
    return cluster


def without_a_claim(age=3600.0):
    cluster = Cluster(task("urgency"))
    cluster.model["metadata"]["creationTimestamp"] = format_time(cluster.now - age)
    cluster.pvcs.clear()
    cluster.settle()
    return cluster


def just_applied_before_its_claim():
    return without_a_claim(age=5.0)


def invalid():
    cluster = Cluster(task("urgency"))
    cluster.model["spec"]["tasks"][0]["labels"] = ["one"]
    cluster.settle()
    return cluster


def before_its_configmap():
    cluster = Cluster(task("urgency"))
    del cluster.model["spec"]["tasks"][0]["labels"]
    cluster.model["spec"]["tasks"][0]["labelsFrom"] = {"name": "labels", "key": "urgency"}
    cluster.referenced_configmaps = {"labels": None}
    cluster.settle()
    return cluster


def edited_after_it_was_trained():
    cluster = trained()
    cluster.edit(task("urgency"), training={"maxParallelJobs": 2})
    return cluster


def looked_at_after_an_edit():
    cluster = edited_after_it_was_trained()
    cluster.settle()
    return cluster


def found_unchanged_after_an_edit():
    cluster = looked_at_after_an_edit()
    cluster.to_the_end()
    return cluster


def edited_to_something_invalid():
    cluster = trained()
    cluster.edit(task("urgency"))
    cluster.model["spec"]["tasks"][0]["labels"] = ["one"]
    cluster.settle()
    return cluster


# situation → the conditions that can be waited for, and what kstatus says
SITUATIONS = {
    begun: (set(), "InProgress"),
    trained: ({"Trained", "Complete"}, "not decided"),
    failed: ({"Failed"}, "Failed"),
    resolve_failed: ({"Failed"}, "Failed"),
    suspended: (set(), "not decided"),
    suspended_after_it_was_trained: (set(), "not decided"),
    without_a_claim: (set(), "Failed"),
    just_applied_before_its_claim: (set(), "InProgress"),
    invalid: ({"Failed"}, "Failed"),
    before_its_configmap: (set(), "Failed"),
    edited_after_it_was_trained: (set(), "InProgress"),
    looked_at_after_an_edit: (set(), "InProgress"),
    found_unchanged_after_an_edit: ({"Trained", "Complete"}, "not decided"),
    edited_to_something_invalid: ({"Failed"}, "Failed"),
}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_who_waits_learns_the_outcome(situation):
    expected, judged = SITUATIONS[situation]
    cluster = situation()
    assert {each for each in ("Trained", "Complete", "Failed") if waited(cluster, each)} == expected
    assert kstatus(cluster) == judged


def test_after_an_edit_nothing_is_true_until_the_edit_was_carried_out():
    """At every step between an edit that retrains and its end."""
    cluster = trained()
    cluster.edit(task("urgency"), task("intent"))
    seen = set()
    for _ in range(60):
        cluster.reconcile()
        seen.add((waited(cluster, "Trained"), waited(cluster, "Failed"), bool(cluster.jobs())))
        if waited(cluster, "Trained"):
            break
        if cluster.jobs():
            assert not waited(cluster, "Complete")
            cluster.finish(cluster.jobs()[0])
    assert seen == {(False, False, True), (True, False, False)}


def test_conditions_that_are_there_only_while_they_are_true_go():
    cluster = without_a_claim()
    assert cluster.condition("Stalled")["reason"] == "ClaimMissing"
    cluster.pvcs["models"] = {"metadata": {"name": "models"}, "spec": {"accessModes": ["ReadWriteMany"]}, "status": {}}
    cluster.to_the_end()
    types = {each["type"] for each in cluster.model["status"]["conditions"]}
    assert not types & {"Stalled", "Reconciling"}


# -- the grace -----------------------------------------------------------------------------------------------------


def waiting_pod(job, since, **status):
    """A pod that fits no node, or what ``status`` says."""
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    metadata = {
        "name": "p",
        "uid": "p",
        "labels": {"batch.kubernetes.io/job-name": job},
        "creationTimestamp": format_time(since),
    }
    return {"kind": "Pod", "metadata": metadata, "status": {"phase": "Pending", "conditions": [unscheduled], **status}}


PULLING = {"conditions": [], "containerStatuses": [{"image": "i", "state": {"waiting": {"reason": "ErrImagePull"}}}]}


@pytest.mark.parametrize(("status", "reason"), [({}, "Unschedulable"), (PULLING, "ImageNotPulled")])
def test_a_pod_that_waits_for_seconds_is_neither_blocked_nor_warned_about(status, reason):
    cluster = begun()
    (job,) = cluster.jobs()
    cluster.objects["Pod", "p"] = waiting_pod(job, cluster.now, **status)
    cluster.events.clear()
    result = cluster.reconcile()
    assert (cluster.condition("Ready")["reason"], cluster.events) == ("NotTrained", [])
    assert result.requeue_after == pytest.approx(SETTINGS.grace_seconds, abs=1.0)
    cluster.now += result.requeue_after
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == reason
    assert cluster.events == [("Warning", reason)]
    assert cluster.model["status"]["stage"] == "Blocked"


def test_the_queue_admits_a_job_within_seconds_and_nobody_is_told():
    cluster = begun(training={"queueName": "team-a"})
    (job,) = cluster.jobs()
    cluster.objects["Job", job]["spec"]["suspend"] = True
    cluster.reconcile()
    assert cluster.condition("Ready")["reason"] == "NotTrained"
    cluster.now += SETTINGS.grace_seconds + 60
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "Queued"
    assert kstatus(cluster) == "InProgress"
    # preempted after it was admitted: the grace begins anew
    stamp = format_time(cluster.now)
    cluster.objects["Job", job]["status"] = {"conditions": [{"type": "Suspended", "lastTransitionTime": stamp}]}
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "NotTrained"


def test_the_grace_is_a_setting():
    cluster = begun(settings=Settings(trainer_image="registry.example/trainer:1", grace_seconds=0))
    cluster.objects["Pod", "p"] = waiting_pod(cluster.jobs()[0], cluster.now)
    result = cluster.reconcile()
    assert any(isinstance(each, Event) and each.reason == "Unschedulable" for each in result.actions)
