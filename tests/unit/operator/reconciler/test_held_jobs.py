"""A sidecar that does not end holds a pod and its GPUs: what is over is ended, and said."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import EXIT_ALONE, EXIT_RETRYABLE, EXIT_USER_ERROR, FAILURE_KEY, RESTARTS_KEY
from multitask_operator.objects.jobs import RETRIES
from multitask_operator.reconciler.actions import Event
from multitask_operator.reconciler.training.held_jobs import HELD_SECONDS
from support.graph_builders import task
from support.pods import held, pod, running
from support.simulation import Cluster, run_until, show


def at(kind, **spec):
    cluster = Cluster(task("urgency"), **spec)
    run_until(cluster, kind)
    return cluster, cluster.jobs(kind)[0]


def reports(cluster, name):
    """The stage has reported, and its Job does not end."""
    cluster.finish(name)
    cluster.objects["Job", name]["status"] = {"active": 1}


@pytest.mark.parametrize("kind", ["resolve", "prepare", "base", "baseline"])
def test_what_has_reported_is_ended_after_a_minute_and_its_result_counts(kind):
    cluster, name = at(kind)
    ended = cluster.now
    reports(cluster, name)
    show(cluster, held(name, ended))
    cluster.settle()
    assert name in cluster.jobs()
    assert cluster.reconcile().requeue_after <= HELD_SECONDS
    cluster.now = ended + HELD_SECONDS + 1
    (event,) = [action for action in cluster.reconcile().actions if isinstance(action, Event)]
    assert event.reason == "PodHeld"
    assert f"Job {name} has reported its results, and container istio-proxy of pod p still runs" in event.message
    assert name not in cluster.jobs()
    cluster.objects.pop(("Pod", "p"))
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"
    assert cluster.job_runs.count(name) == 1
    assert cluster.events.count(("Warning", "PodHeld")) == 1


@pytest.mark.parametrize("failure_kind", ["UserError", "Retryable", "Fault", None])
@pytest.mark.parametrize("kind", ["resolve", "baseline"])
def test_what_has_failed_is_ended_too_and_says_why_it_is_not_tried_again(kind, failure_kind):
    cluster, name = at(kind)
    annotations = cluster.objects["ConfigMap", name]["metadata"]["annotations"]
    key = {"stage": annotations.get("multitask.dev/stage", kind), "digest": annotations.get("multitask.dev/digest", "")}
    if failure_kind is not None:
        failure = json.dumps({**key, "kind": failure_kind, "message": "no such bucket"})
        cluster.objects["ConfigMap", name]["data"][FAILURE_KEY] = failure
    show(cluster, held(name, cluster.now, exit_code=2))
    runs = len(cluster.job_runs)
    cluster.settle()
    assert name in cluster.jobs()
    cluster.now += HELD_SECONDS + 1
    cluster.settle()
    assert name not in cluster.jobs()
    ready = cluster.condition("Ready")
    assert ready["reason"] == ("ResolveFailed" if kind == "resolve" else "StageFailed")
    assert ("no such bucket" if failure_kind else "exit code 2 and no result") in ready["message"]
    assert "container istio-proxy of pod p" in ready["message"]
    assert len(cluster.job_runs) == runs
    assert ("Warning", "PodHeld") in cluster.events


def again(cluster, job, *exit_codes):
    """Another attempt of it is held, and the minute passes. The pods are there for a while when their Job is gone."""
    owner = {"uid": cluster.objects["Job", job]["metadata"]["uid"], "controller": True}
    for number, exit_code in enumerate(exit_codes):
        item = held(job, cluster.now, exit_code=exit_code, name=f"p-{number}")
        item["metadata"]["ownerReferences"] = [owner]
        show(cluster, item)
    cluster.now += HELD_SECONDS + 1
    cluster.settle()
    for key in [key for key in cluster.objects if key[0] == "Pod"]:
        cluster.objects.pop(key)


ATTEMPTS = {EXIT_RETRYABLE: "a store was away", 1: "a fault", 137: "killed", 0: "no result"}


@pytest.mark.parametrize("exit_code", ATTEMPTS, ids=ATTEMPTS.values())
@pytest.mark.parametrize("kind", ["resolve", "baseline"])
def test_an_attempt_that_may_succeed_later_is_repeated_as_often_as_by_a_job(kind, exit_code):
    cluster, name = at(kind)
    for attempt in range(1, RETRIES + 1):
        again(cluster, name, exit_code)
        assert cluster.job_runs.count(name) == 1 + attempt
        assert cluster.condition("Ready")["reason"] == "NotTrained"
        assert cluster.events.count(("Warning", "PodHeld")) == attempt
    again(cluster, name, exit_code)
    assert name not in cluster.jobs()
    assert cluster.job_runs.count(name) == 1 + RETRIES
    assert cluster.condition("Ready")["reason"] == ("ResolveFailed" if kind == "resolve" else "StageFailed")


@pytest.mark.parametrize("exit_code", [EXIT_RETRYABLE, EXIT_ALONE])
def test_the_attempt_after_it_may_succeed(exit_code):
    cluster, name = at("baseline", training={"nodes": 2})
    again(cluster, name, exit_code)
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_pods_that_wait_in_vain_for_the_others_are_no_failure():
    """Node 0 gave its GPUs back, its sidecar goes on; node 1 found no room."""
    cluster, name = at("baseline", training={"nodes": 2})
    for attempt in range(1, 3 * RETRIES):
        show(cluster, pod(name, "Pending", name="other"))
        again(cluster, name, EXIT_ALONE)
        assert cluster.job_runs.count(name) == 1 + attempt
        assert cluster.condition("Ready")["reason"] == "NotTrained"


@pytest.mark.parametrize(
    ("codes", "is_final"), [((EXIT_ALONE, EXIT_USER_ERROR), True), ((EXIT_RETRYABLE, EXIT_ALONE), False)]
)
def test_of_several_pods_a_wrong_input_decides(codes, is_final):
    cluster, name = at("baseline", training={"nodes": 2})
    again(cluster, name, *codes)
    assert (cluster.condition("Ready")["reason"] == "StageFailed") is is_final
    assert (name in cluster.jobs()) is not is_final


@pytest.mark.parametrize("text", ["{", "{}", "7"])
def test_a_count_of_attempts_that_was_edited_by_hand_begins_again(text):
    cluster, name = at("baseline")
    cluster.objects["ConfigMap", name]["data"][RESTARTS_KEY] = text
    again(cluster, name, EXIT_RETRYABLE)
    assert cluster.job_runs.count(name) == 2


def test_a_pod_whose_stage_runs_is_left_alone():
    cluster, name = at("baseline", training={"nodes": 2})
    reports(cluster, name)
    show(cluster, held(name, cluster.now, name="a"), running(name, cluster.now, name="b"))
    cluster.now += 10 * HELD_SECONDS
    cluster.settle()
    assert name in cluster.jobs()


def test_a_pod_that_ends_by_itself_in_time_is_left_to_its_job():
    cluster, name = at("baseline")
    show(cluster, held(name, cluster.now))
    cluster.finish(name)
    cluster.now += 10 * HELD_SECONDS
    cluster.settle()
    assert ("Job", name) in cluster.objects
    assert ("Warning", "PodHeld") not in cluster.events
