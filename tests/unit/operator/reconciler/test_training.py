"""A model from apply to trained, and everything that can happen on the way, on a cluster of plain data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from multitask_api.cluster import PROGRESS_KEY
from multitask_api.stage_io.manifest import StageProgress
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.actions import Event, PatchStatus
from multitask_operator.reconciler.state.accessors import format_time, parse_time
from support.graph_builders import task
from support.simulation import BEGAN, ENDED, SETTINGS, Cluster, run_until


def two(**spec):
    return Cluster(task("urgency"), task("intent"), **spec)


def test_a_model_is_resolved_first_and_then_all_its_data_is_prepared_in_one_job():
    cluster = two()
    cluster.settle()
    (resolve,) = cluster.jobs()
    assert resolve.startswith("desk-resolve-")
    cluster.finish(resolve)
    cluster.settle()
    (prepare,) = cluster.jobs()
    assert prepare.startswith("desk-prepare-")
    assert cluster.condition("Progressing")["message"] == "At work: prepare/intent, prepare/urgency."


def test_it_ends_trained_and_then_nothing_is_written():
    cluster = two()
    cluster.to_the_end()
    ready = cluster.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Trained")
    assert ready["message"].startswith("Result 0123abcd is trained: 2/2 tasks qualify.")
    assert cluster.model["status"]["stage"] == "Trained"
    assert len(cluster.job_runs) == len(set(cluster.job_runs))
    written = cluster.written
    cluster.now += 10_000
    cluster.reconcile()
    assert cluster.written == written


def test_no_more_jobs_run_at_once_than_max_parallel_jobs():
    cluster = Cluster(*(task(f"task-{number}") for number in range(6)), training={"maxParallelJobs": 2})
    assert most_jobs_at_once(cluster) == 2
    assert cluster.model["status"]["stage"] == "Trained"


@pytest.mark.parametrize(("method", "places", "jobs"), [("LoRA", 1, 1), ("CGCLoRA", 2, 2), ("Full", 4, 4)])
def test_baselines_that_share_a_base_share_the_jobs_that_may_run(method, places, jobs):
    training = {"maxParallelJobs": places}
    cluster = two(tuning={"method": method, "rank": 12}, stages={"baseline": {"seeds": 2}}, training=training)
    run_until(cluster, "baseline")
    assert len(cluster.jobs("baseline")) == jobs
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"
    assert len(cluster.job_runs) == len(set(cluster.job_runs))


def test_without_gpus_baselines_have_a_job_each():
    cluster = two(tuning={"method": "LoRA"}, training={"gpusPerNode": 0})
    run_until(cluster, "baseline")
    assert len(cluster.jobs("baseline")) == 2


def test_a_claim_of_one_node_is_mounted_by_one_job_at_a_time():
    cluster = Cluster(task("urgency"), task("intent"), task("escalate"), access="ReadWriteOnce")
    assert most_jobs_at_once(cluster) == 1
    assert cluster.model["status"]["stage"] == "Trained"


def test_a_claim_of_one_node_that_training_does_not_mount_leaves_training_parallel():
    cluster = two(pretraining={"corpus": [{"uri": "pvc://chats/all.jsonl"}], "maxSteps": 10})
    cluster.pvcs["chats"] = {"metadata": {"name": "chats"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    run_until(cluster, "baseline")
    assert len(cluster.jobs("baseline")) == 2


def test_another_task_runs_its_own_stages_and_what_reads_them():
    cluster = two()
    cluster.to_the_end()
    before = set(cluster.job_runs)
    cluster.edit(task("urgency"), task("intent"), task("escalate"))
    cluster.to_the_end()
    new = [name.removeprefix("desk-").rsplit("-", 1)[0] for name in cluster.job_runs if name not in before]
    assert new.count("baseline") == 1
    assert new.count("prepare") == 1
    assert "base" not in new
    assert cluster.model["status"]["qualified"] == "3/3"


def test_what_an_edit_makes_obsolete_is_stopped_and_the_rest_goes_on():
    cluster = two()
    run_until(cluster, "baseline")
    running = cluster.jobs("baseline")
    assert len(running) == 2
    cluster.edit(task("urgency"), task("intent", labels=["a", "b", "c", "d"]))
    cluster.settle()
    assert cluster.jobs("baseline") == running  # until the new generation is looked at, nobody knows better
    for kind in ("resolve", "prepare"):
        cluster.finish(cluster.jobs(kind)[0])
        cluster.settle()
    assert len(set(running) & set(cluster.jobs("baseline"))) == 1


def test_a_suspended_model_has_no_jobs_and_goes_on_afterwards():
    cluster = two()
    run_until(cluster, "baseline")
    cluster.edit(task("urgency"), task("intent"), suspend=True)
    cluster.settle()
    assert cluster.jobs() == []
    assert cluster.model["status"]["stage"] == "Suspended"
    cluster.edit(task("urgency"), task("intent"))
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_a_model_that_is_trained_stays_so_when_it_is_suspended_until_there_is_more_to_train():
    cluster = two()
    cluster.to_the_end()
    cluster.edit(task("urgency"), task("intent"), suspend=True)
    cluster.settle()
    assert (cluster.model["status"]["stage"], cluster.condition("Ready")["reason"]) == ("Trained", "Trained")
    cluster.edit(task("urgency"), task("intent"), task("escalate"), suspend=True)
    cluster.settle()
    assert cluster.model["status"]["stage"] == "Suspended"


def test_while_it_is_suspended_ready_says_so():
    cluster = two(suspend=True)
    cluster.settle()
    ready = cluster.condition("Ready")
    assert (ready["reason"], ready["message"]) == (
        "Suspended",
        "spec.suspend is true: its Jobs are stopped; set it to false to go on",
    )


def test_between_two_attempts_ready_says_why_the_last_one_failed():
    cluster = two()
    run_until(cluster, "baseline")
    name = cluster.jobs("baseline")[0]
    annotations = cluster.objects["ConfigMap", name]["metadata"]["annotations"]
    stage, digest = annotations["multitask.dev/stage"], annotations["multitask.dev/digest"]
    failure = {"stage": stage, "kind": "Retryable", "message": "s3 did not answer", "digest": digest}
    cluster.objects["ConfigMap", name]["data"]["failure.json"] = json.dumps(failure)
    cluster.objects["Job", name]["status"] = {"failed": 1}
    cluster.settle()
    ready = cluster.condition("Ready")
    assert ready["reason"] == "Retrying"
    assert ready["message"] == f"{stage}: s3 did not answer; its Job tries again by itself (attempt 2 of 4)"
    assert cluster.condition("Progressing")["reason"] == "StagesRunning"
    cluster.finish(name)
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "NotTrained"


def test_a_job_that_shows_nothing_is_read_again_at_growing_intervals():
    cluster = two()
    cluster.settle()
    waits = []
    for later in (5, 20, 80):
        cluster.now = BEGAN + later
        waits.append(round(cluster.reconcile().requeue_after))
    assert waits == sorted(waits)
    assert 5 <= waits[0] < 20 < waits[2] <= 80


def test_what_no_watch_covers_is_read_again_soon():
    cluster = two()
    cluster.pvcs["models"] = None
    assert cluster.reconcile().requeue_after == 60.0
    del cluster.model["spec"]["tasks"][0]["prompt"]
    cluster.model["spec"]["tasks"][0]["promptFrom"] = {"name": "prompts", "key": "urgency"}
    cluster.referenced_configmaps = {"prompts": None}
    assert cluster.reconcile().requeue_after == 60.0
    assert cluster.condition("Ready")["reason"] == "InvalidSpec"


def test_labels_of_a_configmap_that_look_the_same_are_refused():
    cluster = two()
    task = cluster.model["spec"]["tasks"][0]
    del task["labels"]
    task["labelsFrom"] = {"name": "labels", "key": "urgency"}
    cluster.referenced_configmaps = {"labels": {"data": {"urgency": "f\u00e2ch\u00e9\nneg\nfa\u0302che\u0301\n"}}}
    cluster.reconcile()
    ready = cluster.condition("Ready")
    assert ready["reason"] == "InvalidSpec"
    assert "are the same text in different Unicode forms" in ready["message"]


def test_the_rbac_objects_are_replaced_after_a_former_model_of_the_name():
    cluster = two()
    cluster.settle()
    account = cluster.objects["ServiceAccount", "desk-stages"]
    before = account["metadata"]["uid"]
    account["metadata"]["ownerReferences"][0]["uid"] = "u-former"
    cluster.settle()
    assert cluster.objects["ServiceAccount", "desk-stages"]["metadata"]["uid"] != before


def test_a_failed_stage_has_the_trainers_message_and_is_tried_again_after_an_edit():
    cluster = two()
    run_until(cluster, "prepare")
    (name,) = cluster.jobs("prepare")
    digest = cluster.objects["ConfigMap", name]["metadata"]["annotations"]["multitask.dev/digest"].split(",")[1]
    failure = {
        "stage": "prepare/urgency",
        "kind": "UserError",
        "message": "train.jsonl:3: no field text",
        "digest": digest,
    }
    cluster.objects["ConfigMap", name]["data"]["failure.json"] = json.dumps(failure)
    cluster.end(name, "Failed", "Job has reached the specified backoff limit")
    cluster.settle()
    assert cluster.condition("Ready")["message"] == "prepare/urgency: train.jsonl:3: no field text"
    assert cluster.model["status"]["stage"] == "Failed"
    assert ("Warning", "StageFailed") in cluster.events
    assert cluster.jobs() == []

    cluster.edit(task("urgency"), task("intent"))
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_a_failure_before_the_first_stage_is_reported():
    cluster = two()
    cluster.settle()
    (resolve,) = cluster.jobs()
    failure = {"stage": "resolve", "kind": "UserError", "message": "s3://bucket: access denied", "digest": ""}
    cluster.objects["ConfigMap", resolve]["data"]["failure.json"] = json.dumps(failure)
    cluster.end(resolve, "Failed", "Pod failed with exit code 2")
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "ResolveFailed"
    assert cluster.condition("Ready")["message"] == "s3://bucket: access denied"

    cluster = two()
    run_until(cluster, "base")
    (base,) = cluster.jobs("base")
    failure |= {"stage": "orders.json", "message": "orders.json cannot be read by this image"}
    cluster.objects["ConfigMap", base]["data"]["failure.json"] = json.dumps(failure)
    cluster.end(base, "Failed", "Pod failed with exit code 2")
    cluster.settle()
    assert cluster.condition("Ready")["message"] == "base: orders.json cannot be read by this image"
    assert cluster.jobs() == []


def test_memory_that_ran_out_names_the_settings():
    cluster = two()
    run_until(cluster, "baseline")
    name = cluster.jobs("baseline")[0]
    killed = {"name": "trainer", "state": {"terminated": {"reason": "OOMKilled"}}}
    cluster.objects["Pod", "p"] = {
        "kind": "Pod",
        "metadata": {"name": "p", "uid": "u-p", "labels": {"batch.kubernetes.io/job-name": name}},
        "spec": {"containers": [{"name": "trainer", "resources": {"limits": {"memory": "1Gi"}}}]},
        "status": {"phase": "Failed", "containerStatuses": [killed]},
    }
    cluster.end(name, "Failed", "backoff limit")
    cluster.settle()
    message = cluster.condition("Ready")["message"]
    assert "ran out of memory (limit 1Gi); raise spec.training.resources.limits.memory" in message


@pytest.mark.parametrize("status", [{}, {"conditions": "none", "stage": 5}])
def test_a_status_that_was_wiped_or_overwritten_changes_no_decision(status):
    cluster = two()
    run_until(cluster, "baseline")
    cluster.finish(cluster.jobs("baseline")[0])
    before = cluster.observe()
    assert decided(replace(before, model={**before.model, "status": status})) == decided(before)


@pytest.mark.parametrize("written", ["2099-01-01T00:00:00Z", "yesterday", "", 5, None])
def test_progress_is_written_whatever_time_somebody_wrote_into_the_status(written):
    cluster = two()
    run_until(cluster, "baseline")
    cluster.model["status"]["progressTime"] = written
    cluster.model["status"]["progress"] = "0/9 stages"
    cluster.now = ENDED
    cluster.reconcile()
    assert cluster.model["status"]["progress"] == "3/11 stages"
    assert cluster.model["status"]["progressTime"] == format_time(ENDED)


def decided(state):
    """What a reconcile does, but for status and Events."""
    actions = reconcile(state, SETTINGS, BEGAN).actions
    return [action for action in actions if not isinstance(action, PatchStatus | Event)]


def test_a_missing_claim_is_named_before_any_job_starts():
    cluster = two()
    claim = cluster.pvcs.pop("models")
    cluster.settle()
    assert cluster.jobs() == []
    assert cluster.condition("Ready")["reason"] == "ClaimMissing"
    cluster.pvcs["models"] = claim
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_missing_data_is_named_and_looked_for_again():
    cluster = two()
    cluster.settle()
    (name,) = cluster.jobs("resolve")
    problems = {"data": {}, "problems": ["s3://bucket/urgency/train.jsonl: no such file or folder"]}
    cluster.objects["ConfigMap", name]["data"]["resolved.json"] = json.dumps(problems)
    cluster.end(name, "Complete")
    cluster.now = ENDED
    outcome = cluster.reconcile()
    assert cluster.condition("Ready")["reason"] == "DataNotFound"
    assert "no such file" in cluster.condition("Ready")["message"]
    assert outcome.requeue_after == 300.0
    cluster.now += 301
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


DAMAGE = {
    "a ConfigMap is deleted": lambda cluster, name: cluster.objects.pop(("ConfigMap", name)),
    "a Job is deleted": lambda cluster, name: cluster.objects.pop(("Job", name)),
    "a result is wiped out": lambda cluster, name: cluster.objects["ConfigMap", name].pop("binaryData"),
    "a result is overwritten": lambda cluster, name: overwrite(cluster.objects["ConfigMap", name]["binaryData"]),
    "the annotations are gone": lambda cluster, name: cluster.objects["ConfigMap", name]["metadata"].pop("annotations"),
    "the status is wiped": lambda cluster, name: cluster.model.pop("status"),
    "the status is nonsense": lambda cluster, name: cluster.model.update(status={"conditions": "none"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_a_user_deletes_or_breaks_is_repaired(damage):
    cluster = two()
    run_until(cluster, "baseline")
    name = cluster.jobs("baseline")[0]
    cluster.finish(name)
    DAMAGE[damage](cluster, name)
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def ends(cluster, name):
    cluster.end(name, "Failed", "backoff limit")


def goes(cluster, name):
    cluster.objects["Job", name]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"


def asks_for_one_node(cluster, name):
    cluster.edit(task("urgency"), task("intent"), training={"nodes": 1})


def is_suspended(cluster, name):
    cluster.edit(task("urgency"), task("intent"), training={"nodes": 2}, suspend=True)


SERVICE_GONE = {
    "while its Job runs": (lambda cluster, name: None, True),
    "while its Job runs, of a spec that asks for one node since": (asks_for_one_node, True),
    "after its Job has ended": (ends, False),
    "while its Job is being deleted": (goes, False),
    "as the model is suspended": (is_suspended, False),
}


@pytest.mark.parametrize("situation", SERVICE_GONE)
def test_a_deleted_service_is_created_again_for_the_pods_that_still_need_it(situation):
    happens, anew = SERVICE_GONE[situation]
    cluster = two(training={"nodes": 2})
    run_until(cluster, "baseline")
    name = cluster.jobs("baseline")[0]
    was = cluster.objects.pop(("Service", name))
    happens(cluster, name)
    cluster.settle()
    now = cluster.objects.get(("Service", name))
    assert (now is not None) is anew
    if now is not None:
        ours = ("name", "labels", "annotations", "ownerReferences")
        assert [now["metadata"][each] for each in ours] == [was["metadata"][each] for each in ours]
        assert now["spec"] == was["spec"]


def overwrite(data):
    for key in data:
        data[key] = "bm9uc2Vuc2U="


def most_jobs_at_once(cluster, limit=60):
    """Jobs end well, one at a time, until there is none; how many there were at most."""
    most = 0
    for _ in range(limit):
        cluster.settle()
        jobs = cluster.jobs()
        if not jobs:
            return most
        most = max(most, len(jobs))
        cluster.finish(jobs[0])
    raise AssertionError(f"no end after {limit} Jobs")


def test_while_a_model_is_resolved_progressing_says_so():
    cluster = two()
    cluster.settle()
    progressing = cluster.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "Resolving")


@pytest.mark.parametrize(("kind", "expected"), [("resolve", "StagesRunning"), ("export", "Complete")])
def test_a_job_that_has_reported_everything_and_not_ended_yet_is_not_at_work(kind, expected):
    cluster = two()
    if kind != "resolve":
        run_until(cluster, kind)
    cluster.settle()
    (name,) = cluster.jobs(kind)
    cluster.finish(name)
    del cluster.objects["Job", name]["status"]
    cluster.settle()
    assert cluster.condition("Progressing")["reason"] == expected


@pytest.mark.parametrize(("seconds", "written"), [(3.0, False), (15.0, False), (16.1, True)])
def test_progress_alone_is_written_every_15_seconds_at_most(seconds, written):
    cluster = two()
    cluster.now += 0.9  # times are stored as whole seconds
    run_until(cluster, "baseline")
    progress = StageProgress(stage="baseline", step=1, total=9)
    cluster.objects["ConfigMap", cluster.jobs("baseline")[0]]["data"][PROGRESS_KEY] = progress.model_dump_json()
    last = parse_time(cluster.model["status"]["progressTime"]) + 0.9
    cluster.now = last + seconds
    outcome = cluster.reconcile()
    assert bool(outcome.actions) is written
    if not written:
        assert outcome.requeue_after is not None
        assert seconds + outcome.requeue_after <= 16  # or sooner, for a Job that has no pod yet


def test_one_job_without_a_gpu_does_not_hide_the_work_of_the_others():
    cluster = two()
    run_until(cluster, "baseline")
    first, second = cluster.jobs("baseline")
    cluster.objects["Pod", "p"] = waiting_pod(first)
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "NoGPUFree"
    assert cluster.condition("Progressing")["reason"] == "StagesRunning"
    assert cluster.model["status"]["stage"] == "baseline"
    cluster.finish(second)
    cluster.settle()
    assert cluster.condition("Progressing")["reason"] == "NoGPUFree"
    assert cluster.model["status"]["stage"] == "Blocked"


def test_a_report_that_was_lost_is_no_failure():
    cluster = two()
    run_until(cluster, "base")
    (name,) = cluster.jobs("base")
    cluster.end(name, "Complete")
    cluster.to_the_end()
    assert ("Warning", "StageFailed") not in cluster.events


def waiting_pod(job):
    """A pod of ``job`` that no node can take."""
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    unscheduled["message"] = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    return {
        "kind": "Pod",
        "metadata": {"name": "p", "uid": "u-p", "labels": {"batch.kubernetes.io/job-name": job}},
        "spec": {"containers": []},
        "status": {"phase": "Pending", "conditions": [unscheduled]},
    }
