"""What failed for good runs again after an edit or a refresh, and never because its Job has been removed."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import FAILURE_KEY, FINAL_KEY, REFRESH_ANNOTATION
from multitask_operator.reconciler.state.model_state import ModelState
from support.graph_builders import task
from support.pods import pod
from support.simulation import ENDED, Cluster, run_until

TASKS = (task("urgency"), task("intent"))
DAY = 86_400.0


def at(kind):
    cluster = Cluster(*TASKS)
    run_until(cluster, kind)
    return cluster, cluster.jobs(kind)[0]


def report(cluster, name, failure_kind, message="row 3 has no label"):
    """What the stage program writes before it ends."""
    annotations = cluster.objects["ConfigMap", name]["metadata"]["annotations"]
    stage = annotations.get("multitask.dev/stage", "resolve").split(",")[0]
    digest = annotations.get("multitask.dev/digest", "").split(",")[0]
    document = {"stage": stage, "kind": failure_kind, "message": message, "digest": digest}
    cluster.objects["ConfigMap", name]["data"][FAILURE_KEY] = json.dumps(document)


def fails(cluster, name, failure_kind):
    if failure_kind is not None:
        report(cluster, name, failure_kind)
    cluster.end(name, "Failed", "Job has reached the specified backoff limit")
    cluster.settle()


def removed_after_a_day(cluster, name):
    """The TTL of Jobs."""
    del cluster.objects["Job", name]
    cluster.now = ENDED + DAY
    cluster.settle()


@pytest.mark.parametrize("failure_kind", ["UserError", "Fault", "Retryable", None])
@pytest.mark.parametrize("kind", ["resolve", "prepare", "base", "baseline"])
def test_after_its_job_is_removed_it_does_not_run_again(kind, failure_kind):
    cluster, name = at(kind)
    fails(cluster, name, failure_kind)
    ready, runs = cluster.condition("Ready"), list(cluster.job_runs)
    assert ready["reason"] == ("ResolveFailed" if kind == "resolve" else "StageFailed")
    for _ in range(3):
        removed_after_a_day(cluster, name) if ("Job", name) in cluster.objects else cluster.settle()
        cluster.now += DAY
    assert cluster.job_runs == runs
    after = cluster.condition("Ready")
    assert (after["reason"], after["message"]) == (ready["reason"], ready["message"])


ASKED = [
    (lambda cluster: cluster.annotate(REFRESH_ANNOTATION, "tuesday"), "a refresh"),
    (lambda cluster: cluster.edit(*TASKS, training={"queueName": "gold"}), "an edit of its pods"),
    (lambda cluster: cluster.edit(*TASKS, training={"batchRows": 8}), "an edit of what it computes"),
]


@pytest.mark.parametrize("removed", [True, False], ids=["its Job removed", "its Job there"])
@pytest.mark.parametrize("kind", ["resolve", "prepare", "baseline"])
@pytest.mark.parametrize(("ask", "sentence"), ASKED, ids=[row[1] for row in ASKED])
def test_it_runs_again_after(ask, sentence, kind, removed):
    cluster, name = at(kind)
    fails(cluster, name, "UserError")
    if removed:
        removed_after_a_day(cluster, name)
    ask(cluster)
    cluster.settle()
    cluster.finish(cluster.jobs("resolve")[0])
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_a_failure_of_an_older_release_whose_job_is_gone_is_final_if_the_trainer_said_so():
    cluster, name = at("prepare")
    report(cluster, name, "UserError")
    del cluster.objects["Job", name]
    cluster.settle()
    assert cluster.jobs() == []
    assert cluster.condition("Ready")["message"].endswith("row 3 has no label")


def test_a_job_that_was_stopped_between_two_attempts_goes_on():
    cluster, name = at("baseline")
    report(cluster, name, "Retryable", "s3 did not answer")
    del cluster.objects["Job", name]
    cluster.settle()
    assert name in cluster.jobs("baseline")


def test_data_that_is_looked_for_again_does_not_repeat_what_failed():
    cluster, name = at("prepare")
    fails(cluster, name, "UserError")
    runs = list(cluster.job_runs)
    resolve = next(name for kind, name in cluster.objects if kind == "ConfigMap" and "-resolve-" in name)
    cluster.objects["ConfigMap", resolve]["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z"
    cluster.settle()
    assert cluster.job_runs == runs


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "other", "kind": "Fault", "message": "m", "digest": "0"}'])
def test_a_memory_that_was_edited_by_hand_stops_nothing_for_good(text):
    cluster, name = at("baseline")
    cluster.objects["ConfigMap", name]["data"][FINAL_KEY] = text
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_memory_that_ran_out_is_remembered_with_its_advice():
    cluster, name = at("baseline")
    killed = {"name": "trainer", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    cluster.objects["Pod", "p"] = pod(name, "Failed", containerStatuses=[killed])
    fails(cluster, name, None)
    del cluster.objects["Pod", "p"]
    removed_after_a_day(cluster, name)
    assert "ran out of memory" in cluster.condition("Ready")["message"]
    assert name not in cluster.jobs()


def test_several_stages_of_one_job_keep_what_they_reported():
    cluster, name = at("prepare")
    state = ModelState.of(cluster.observe(), cluster.now)
    assert len(next(job for job in state.stage_jobs if job.name == name).keys) == 2
    fails(cluster, name, "UserError")
    removed_after_a_day(cluster, name)
    assert cluster.model["status"]["stage"] == "Failed"
    assert cluster.jobs() == []
