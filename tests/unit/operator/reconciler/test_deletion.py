"""A model that does not retain its artifacts, from its finalizer to its end."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from multitask_api.cluster import CLEAN_UP_RESULT_KEY, FINALIZER, CleanUpResult
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.actions import Create, Event, PatchFinalizers, PatchStatus
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.reconciler.state.cluster_state import RejectedWrite
from multitask_operator.settings import PodDefaults
from support.graph_builders import task
from support.simulation import ENDED, REMOVED, SETTINGS, STORAGE, Cluster


def cluster_with_model(**spec):
    return Cluster(task("urgency"), task("intent"), **{"storage": REMOVED, **spec})


def running(kind="baseline", **spec):
    """A model whose Jobs of ``kind`` run."""
    cluster = cluster_with_model(**spec)
    cluster.settle()
    while not cluster.jobs(kind):
        cluster.finish(cluster.jobs()[0])
        cluster.settle()
    return cluster


def deleted(**spec):
    """A model that is being deleted while its baselines run; it was not reconciled since."""
    cluster = running(**spec)
    cluster.delete()
    return cluster


def cleaning_up(**spec):
    """A model that is being deleted, and the name of its clean-up's Job."""
    cluster = deleted(**spec)
    cluster.settle()
    (job,) = cluster.jobs()
    return cluster, job


def finalizers(cluster):
    return cluster.model["metadata"].get("finalizers", [])


def events(result):
    return [(action.type, action.reason) for action in result.actions if isinstance(action, Event)]


def message(result):
    (event,) = [action for action in result.actions if isinstance(action, Event)]
    return event.message


# -- the finalizer -----------------------------------------------------------------------------------------------------


def test_the_finalizer_is_written_before_anything_else():
    cluster = cluster_with_model()
    result = cluster.reconcile()
    assert [type(action) for action in result.actions] == [PatchFinalizers]
    assert finalizers(cluster) == [FINALIZER]
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


@pytest.mark.parametrize("storage", [STORAGE, STORAGE | {"retain": True}])
def test_a_model_that_retains_its_artifacts_has_none_and_goes_at_once(storage):
    cluster = running(storage=storage)
    assert finalizers(cluster) == []
    cluster.delete()
    assert (cluster.model, cluster.objects) == (None, {})
    assert cluster.stored


def test_it_follows_the_spec_and_leaves_those_of_others_alone():
    cluster = cluster_with_model(storage=STORAGE)
    cluster.model["metadata"]["finalizers"] = ["example.test/ours"]
    for storage, expected in ((REMOVED, ["example.test/ours", FINALIZER]), (STORAGE, ["example.test/ours"])):
        cluster.edit(task("urgency"), storage=storage)
        cluster.settle()
        assert finalizers(cluster) == expected


def test_also_a_spec_that_cannot_be_read_has_it():
    cluster = cluster_with_model(storage={"uri": "/a/path", "retain": False})
    cluster.settle()
    assert finalizers(cluster) == [FINALIZER]
    assert cluster.condition("Ready")["reason"] == "InvalidSpec"


def test_a_finalizer_that_may_not_be_set_is_in_ready():
    cluster = cluster_with_model()
    refused = replace(cluster.observe(), rejected_writes=(rejected_write("patch", "MultiTaskModel", "it may not"),))
    (patch,) = [each for each in reconcile(refused, SETTINGS, 0.0).actions if isinstance(each, PatchStatus)]
    assert patch.status["conditions"][0]["reason"] == "WriteRefused"


def test_no_finalizer_is_added_while_the_namespace_is_being_deleted():
    cluster = cluster_with_model()
    cluster.namespace = terminating_namespace()
    assert cluster.reconcile().actions == ()


# -- the clean-up ------------------------------------------------------------------------------------------------------


def test_what_writes_is_stopped_first_then_one_job_cleans_up_and_the_model_goes():
    cluster = deleted()
    assert len(cluster.jobs("baseline")) == 2
    cluster.reconcile()
    assert cluster.jobs() == []
    cluster.settle()
    (job,) = cluster.jobs()
    assert job.startswith("desk-clean-up-")
    assert cluster.objects["Role", "desk-stages"]["rules"][0]["resourceNames"] == [job]
    count = len(cluster.stored)
    cluster.finish(job)
    result = cluster.reconcile()
    assert (cluster.model, cluster.objects, cluster.stored) == (None, {}, set())
    assert events(result) == [("Normal", "CleanedUp")]
    assert message(result) == f"Removed at pvc://models/desk: {count} results, {count} files with 2.0 MB."
    assert cluster.job_runs.count(job) == 1


def test_the_status_shows_the_step():
    cluster, job = cleaning_up()
    assert cluster.model["status"]["stage"] == "CleaningUp"
    assert [cluster.condition(kind)["status"] for kind in ("Ready", "Progressing")] == ["False", "True"]
    assert cluster.condition("Ready")["reason"] == "CleaningUp"
    assert ("Normal", "CleaningUp") in cluster.events
    data = cluster.objects["ConfigMap", job]["data"]
    data["progress.json"] = '{"stage": "clean-up", "phase": "removing", "step": 3, "total": 9, "updated": 1}'
    cluster.now += 60
    cluster.settle()
    assert cluster.model["status"]["progress"] == "3/9 files"


def pod(cluster, name, kind, phase, **metadata):
    labels = {"multitask.dev/kind": kind, "batch.kubernetes.io/job-name": name}
    cluster.objects["Pod", name] = {
        "kind": "Pod",
        "metadata": {"name": name, "uid": f"u-{name}", "labels": labels, **metadata},
        "spec": {"containers": []},
        "status": {"phase": phase},
    }


def test_pods_are_waited_for_until_they_have_ended():
    cluster = deleted()
    pod(cluster, "p", "baseline", "Running")
    cluster.settle()
    assert cluster.jobs() == []
    assert cluster.condition("Ready")["message"].endswith("Waiting for 1 Jobs and pods to end: p.")
    cluster.objects["Pod", "p"]["status"]["phase"] = "Succeeded"
    cluster.settle()
    assert cluster.jobs("clean-up")


def test_pods_that_are_of_no_job_write_nothing_and_are_not_waited_for():
    cluster = deleted()
    pod(cluster, "server", "serving", "Running")
    del cluster.objects["Pod", "server"]["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    cluster.settle()
    assert cluster.jobs("clean-up")


def test_a_pod_whose_node_is_lost_is_waited_for_ten_minutes():
    cluster = deleted()
    pod(cluster, "p", "baseline", "Running", deletionTimestamp=format_time(cluster.now))
    cluster.settle()
    assert cluster.jobs() == []
    assert 500 < cluster.reconcile().requeue_after <= 600
    cluster.now += 600
    cluster.settle()
    assert cluster.jobs("clean-up")


def test_the_clean_up_has_what_the_installation_adds_to_every_stage_pod():
    additions = PodDefaults(pod_template={"spec": {"priorityClassName": "batch"}})
    cluster = cluster_with_model(settings=replace(SETTINGS, fixed_user=False, stage_pods=additions))
    cluster.settle()
    cluster.delete()
    cluster.settle()
    (job,) = (cluster.objects["Job", name] for name in cluster.jobs("clean-up"))
    pod = job["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "batch"
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])


@pytest.mark.parametrize("ended", [False, True])
def test_after_a_job_that_a_stale_decision_created_beside_it_the_clean_up_runs_again(ended):
    cluster = running("base")
    cluster.finish(cluster.jobs()[0])
    old = cluster.observe()
    cluster.delete()
    cluster.settle()
    (job,) = cluster.jobs()
    uid = cluster.objects["Job", job]["metadata"]["uid"]
    cluster.finish(job)
    cluster.reconcile(old)
    late = cluster.jobs("baseline")
    assert len(late) == 2
    if ended:
        for name in late:
            cluster.finish(name)
        assert cluster.stored
    cluster.settle()
    assert cluster.jobs() == [job]
    assert cluster.objects["Job", job]["metadata"]["uid"] != uid
    cluster.finish(job)
    cluster.settle()
    assert (cluster.model, cluster.stored) == (None, set())


# what is done to a clean-up that runs
DAMAGE = {
    "its Job is deleted": lambda cluster, job: cluster.objects.pop(("Job", job)),
    "its ConfigMap is deleted": lambda cluster, job: cluster.objects.pop(("ConfigMap", job)),
    "both are deleted": lambda cluster, job: [cluster.objects.pop((kind, job)) for kind in ("Job", "ConfigMap")],
    "its Role is emptied": lambda cluster, job: cluster.objects["Role", "desk-stages"].update(rules=[]),
    "the status is wiped": lambda cluster, job: cluster.model.pop("status"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_a_user_deletes_or_breaks_is_repaired(damage):
    cluster, job = cleaning_up()
    DAMAGE[damage](cluster, job)
    cluster.settle()
    assert cluster.jobs() == [job]
    assert cluster.objects["Role", "desk-stages"]["rules"][0]["resourceNames"] == [job]
    cluster.to_the_end()
    assert (cluster.model, cluster.stored) == (None, set())


def test_a_clean_up_whose_report_is_lost_counts_as_done():
    cluster, job = cleaning_up()
    cluster.objects["ConfigMap", job]["data"].clear()
    cluster.end(job, "Complete")
    assert events(cluster.reconcile()) == [("Normal", "CleanedUp")]
    assert cluster.model is None


def invalid(cluster):
    cluster.model["spec"]["tasks"] = [{"name": "urgency", "promptFrom": {"name": "gone", "key": "x"}}]


# what is so with a model that is deleted, and does not matter
NO_MATTER = {
    "it is suspended": lambda cluster: cluster.model["spec"].update(suspend=True),
    "its spec cannot be read any more": invalid,
    "its pod template is wrong": lambda cluster: cluster.model["spec"]["training"].update(podTemplate={"x": 1}),
    "its Jobs go through a queue": lambda cluster: cluster.model["spec"]["training"].update(queueName="team-a"),
    "a claim of its data is gone": lambda cluster: cluster.pvcs.update(data=None),
    "another model lies beside": lambda cluster: add_other_model(cluster, "pvc://models/desk-2"),
    "another model lies in a bucket of that name": lambda cluster: add_other_model(cluster, "s3://models/desk"),
    "another model there is deleted too": lambda cluster: add_other_model(
        cluster, "pvc://models/desk", deleting=True, retain=False
    ),
}


def add_other_model(cluster, uri, *, deleting=False, retain=True, base="builtin://tiny"):
    metadata = {"name": "other", "uid": "u-other"}
    if deleting:
        metadata |= {"deletionTimestamp": format_time(0.0), "finalizers": [FINALIZER]}
    spec = {"storage": {"uri": uri, "retain": retain}, "baseModel": {"uri": base}}
    cluster.sibling_models = ({"metadata": metadata, "spec": spec},)


@pytest.mark.parametrize("what", NO_MATTER)
def test_a_clean_up_runs_although(what):
    cluster = running()
    NO_MATTER[what](cluster)
    cluster.delete()
    cluster.settle()
    (job,) = cluster.jobs()
    assert cluster.objects["Job", job]["spec"].get("suspend") is None
    cluster.to_the_end()
    assert (cluster.model, cluster.stored) == (None, set())


def terminating_namespace():
    return {"metadata": {"name": "ml", "deletionTimestamp": format_time(0.0)}}


def rejected_write(verb, kind, reason):
    return RejectedWrite(verb, kind, "desk", 403, "Forbidden", reason)


def broken(cluster):
    """A spec that nothing can be made of, and no run that had another."""
    invalid(cluster)
    for key in [key for key in cluster.objects if key[0] == "ConfigMap"]:
        del cluster.objects[key]


# what keeps a clean-up from being, and what the Event says
SKIPPED = {
    "the claim is gone": (
        lambda cluster: cluster.pvcs.clear(),
        "PersistentVolumeClaim 'models' does not exist",
    ),
    "the claim goes": (
        lambda cluster: cluster.pvcs["models"]["metadata"].update(deletionTimestamp=format_time(0.0)),
        "PersistentVolumeClaim 'models' is being deleted, and no new pod may mount it.",
    ),
    "the claim is lost": (
        lambda cluster: cluster.pvcs["models"]["status"].update(phase="Lost"),
        "PersistentVolumeClaim 'models' has lost its volume.",
    ),
    "the namespace goes": (
        lambda cluster: setattr(cluster, "namespace", terminating_namespace()),
        "The namespace is being deleted",
    ),
    "another model stores there": (
        lambda cluster: add_other_model(cluster, "pvc://models/desk/"),
        "MultiTaskModel 'other' uses pvc://models/desk/.",
    ),
    "another model stores below": (lambda cluster: add_other_model(cluster, "pvc://models/desk/b"), "'other' uses"),
    "another model stores above": (
        lambda cluster: add_other_model(cluster, "pvc://models"),
        "'other' uses pvc://models.",
    ),
    "another model that goes keeps what is there": (
        lambda cluster: add_other_model(cluster, "pvc://models/desk", deleting=True),
        "'other' uses",
    ),
    "another model starts from a result of it": (
        lambda cluster: add_other_model(
            cluster, "pvc://models/b", base="pvc://models/desk/stages/mixture/all/d1/weights"
        ),
        "'other' uses pvc://models/desk/stages/mixture/all/d1/weights.",
    ),
    "nothing can be made of the spec": (broken, "Its spec cannot be read"),
}


@pytest.mark.parametrize("why", SKIPPED)
def test_where_it_is_impossible_the_finalizer_goes_with_a_warning_that_says_what_stays(why):
    change, part = SKIPPED[why]
    cluster = deleted()
    change(cluster)
    for name in cluster.jobs():
        del cluster.objects["Job", name]
    result = cluster.reconcile()
    assert cluster.model is None
    assert events(result) == [("Warning", "CleanUpSkipped")]
    assert part in message(result)
    assert message(result).endswith("What its runs wrote at pvc://models/desk stays.")


def test_where_the_namespace_cannot_be_read_a_rejected_write_shows_its_deletion():
    cluster = deleted()
    cluster.reconcile()
    text = "unable to create new content in namespace ml because it is being terminated"
    rejected = replace(cluster.observe(), rejected_writes=(rejected_write("create", "Job", text),))
    result = reconcile(rejected, SETTINGS, cluster.now)
    assert [type(action) for action in result.actions] == [PatchFinalizers, Event]
    assert "The namespace is being deleted" in message(result)


def test_a_clean_up_that_failed_for_good_does_not_block_the_deletion():
    cluster, job = cleaning_up()
    text = '{"stage": "clean-up", "kind": "UserError", "message": "access denied", "digest": ""}'
    cluster.objects["ConfigMap", job]["data"]["failure.json"] = text
    cluster.end(job, "Failed", "Job has reached the specified backoff limit")
    result = cluster.reconcile()
    assert cluster.model is None
    assert events(result) == [("Warning", "CleanUpFailed")]
    assert message(result) == (
        "access denied. What its runs wrote at pvc://models/desk is not all removed; remove it by hand."
    )


def test_a_clean_up_that_was_killed_for_good_has_the_clusters_message():
    cluster, job = cleaning_up()
    cluster.end(job, "Failed", "Job was active longer than specified deadline")
    assert message(cluster.reconcile()).startswith("Job was active longer than specified deadline. What its runs")


# what makes the files stay although a clean-up is at work, and the Events of the end
STAYS = {
    "retain is set": (
        lambda cluster: cluster.edit(task("urgency"), task("intent"), storage=STORAGE),
        [],
    ),
    "another model comes": (
        lambda cluster: add_other_model(cluster, "pvc://models/desk"),
        [("Warning", "CleanUpSkipped")],
    ),
}


@pytest.mark.parametrize("why", STAYS)
def test_a_clean_up_whose_files_are_to_stay_is_ended_before_the_model_goes(why):
    change, expected = STAYS[why]
    cluster, job = cleaning_up()
    pod(cluster, job, "clean-up", "Running")
    change(cluster)
    assert not any(isinstance(action, PatchFinalizers) for action in cluster.reconcile().actions)
    assert cluster.jobs() == []
    cluster.settle()
    assert cluster.condition("Ready")["message"] == (
        f"Being deleted; what its runs wrote at pvc://models/desk stays. Waiting for 1 Jobs and pods to end: {job}."
    )
    cluster.objects["Pod", job]["status"]["phase"] = "Failed"
    assert events(cluster.reconcile()) == expected
    assert cluster.model is None
    assert cluster.stored


def test_setting_retain_ends_the_deletion_also_where_the_clean_up_cannot_be_ended():
    cluster, job = cleaning_up()
    cluster.objects["Job", job]["metadata"] |= {
        "deletionTimestamp": format_time(cluster.now),
        "finalizers": ["a.test/b"],
    }
    cluster.now += 60
    cluster.edit(task("urgency"), task("intent"), storage=STORAGE)
    cluster.reconcile()
    assert cluster.model is None


def test_the_clean_up_of_a_former_model_of_the_name_does_not_count():
    cluster, job = cleaning_up()
    former = {}
    for kind in ("ConfigMap", "Job"):
        item = copy.deepcopy(cluster.objects[kind, job])
        item["metadata"] |= {"name": "desk-clean-up-0", "uid": f"u-former-{kind}"}
        former[kind, "desk-clean-up-0"] = item
    former["ConfigMap", "desk-clean-up-0"]["data"][CLEAN_UP_RESULT_KEY] = CleanUpResult(
        results=1, files=1, bytes=1, left=0
    ).model_dump_json(by_alias=True)
    cluster.objects |= former
    cluster.settle()
    assert cluster.model is not None
    assert cluster.stored
    cluster.finish(job)
    cluster.settle()
    assert (cluster.model, cluster.stored) == (None, set())


@pytest.mark.parametrize("finalizer", ["foregroundDeletion", "orphan"])
def test_the_garbage_collector_goes_first(finalizer):
    cluster = running()
    cluster.delete(finalizer)
    cluster.settle()
    assert len(cluster.jobs("baseline")) == 2
    assert cluster.condition("Ready")["message"].endswith("Waiting for the garbage collector.")
    cluster.objects.clear()
    cluster.model["metadata"]["finalizers"].remove(finalizer)
    cluster.to_the_end()
    assert (cluster.model, cluster.objects, cluster.stored) == (None, {}, set())


def test_what_blocks_the_pod_is_in_ready_and_how_to_do_without_it():
    cluster, job = cleaning_up()
    pod(cluster, job, "clean-up", "Pending")
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}
    cluster.objects["Pod", job]["status"]["containerStatuses"] = [{"name": "trainer", "state": {"waiting": waiting}}]
    cluster.settle()
    ready = cluster.condition("Ready")
    assert (ready["reason"], cluster.model["status"]["stage"]) == ("SecretMissing", "Blocked")
    assert "or set spec.storage.retain: true" in ready["message"]


def test_a_pod_that_shows_nothing_is_read_again_until_an_event_says_why():
    cluster, job = cleaning_up()
    pod(cluster, job, "clean-up", "Pending")
    cluster.settle()
    assert cluster.reconcile().requeue_after is not None
    cluster.warnings = {f"u-{job}": "MountVolume.SetUp failed"}
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "PodWarning"


def with_foreign_finalizer(raw, now):
    ended = {"deletionTimestamp": format_time(now - 60), "finalizers": ["a.test/b"]}
    return replace(raw, jobs=tuple({**job, "metadata": {**job["metadata"], **ended}} for job in raw.jobs))


# what keeps the Jobs that write from being ended, and the reason
NOT_ENDED = {
    "a finalizer of somebody's": (with_foreign_finalizer, "NotDeleted"),
    "the API server": (
        lambda raw, _: replace(raw, rejected_writes=(rejected_write("delete", "Job", "it may not"),)),
        "WriteRefused",
    ),
}


@pytest.mark.parametrize("why", NOT_ENDED)
def test_what_keeps_a_job_that_writes_from_ending_is_in_ready(why):
    change, reason = NOT_ENDED[why]
    cluster = deleted()
    result = reconcile(change(cluster.observe(), cluster.now), SETTINGS, cluster.now)
    (patch,) = [action for action in result.actions if isinstance(action, PatchStatus)]
    assert patch.status["conditions"][0]["reason"] == reason


def test_a_quota_that_rejects_the_job_is_in_ready_and_the_finalizer_stays():
    cluster = deleted()
    cluster.reconcile()
    refused = replace(cluster.observe(), rejected_writes=(rejected_write("create", "Job", "exceeded quota: few"),))
    result = reconcile(refused, SETTINGS, cluster.now)
    assert not any(isinstance(action, PatchFinalizers) for action in result.actions)
    (patch,) = [action for action in result.actions if isinstance(action, PatchStatus)]
    assert patch.status["conditions"][0]["reason"] == "WriteRefused"


def test_a_finalizer_that_may_not_be_removed_is_in_ready_and_no_event_says_that_it_was():
    cluster, job = cleaning_up()
    cluster.finish(job)
    refused = replace(cluster.observe(), rejected_writes=(rejected_write("patch", "MultiTaskModel", "it may not"),))
    result = reconcile(refused, SETTINGS, cluster.now)
    assert [reason for _, reason in events(result)] == ["WriteRefused"]
    assert not any(isinstance(action, PatchFinalizers) for action in result.actions)


def test_the_image_is_the_installations_and_not_that_of_the_run():
    cluster = deleted()
    cluster.settings = replace(SETTINGS, trainer_image="registry.example/trainer:2")
    cluster.settle()
    (job,) = cluster.jobs()
    (container,) = cluster.objects["Job", job]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/trainer:2"


def test_an_operator_that_was_down_finishes_it_later():
    cluster = deleted()
    for name in cluster.jobs():
        cluster.finish(name)
    cluster.now = ENDED + 7 * 86_400
    cluster.to_the_end()
    assert (cluster.model, cluster.stored) == (None, set())


def test_nothing_is_created_for_a_model_that_has_only_the_finalizers_of_others():
    cluster = running(storage=STORAGE)
    cluster.delete("example.test/ours")
    assert not any(isinstance(action, Create) for action in cluster.reconcile().actions)
    assert cluster.model is not None
