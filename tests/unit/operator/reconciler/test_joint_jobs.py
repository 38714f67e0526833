"""Baselines that one Job trains: what becomes of the others when it fails for good."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import FAILURE_KEY, ORDERS_KEY, REFRESH_ANNOTATION
from multitask_api.stage_io.packing import manifest_key, pack_manifest
from support.graph_builders import task
from support.pods import pod
from support.simulation import ENDED, Cluster, run_until, show

TASKS = (task("urgency"), task("intent"))
LORA = {"tuning": {"method": "LoRA"}, "stages": {"baseline": {"seeds": 2}}}
FIRST, SECOND, THIRD, FOURTH = (f"baseline/{name}/seed-{seed}" for name in ("intent", "urgency") for seed in (17, 18))
ALL = {FIRST, SECOND, THIRD, FOURTH}


def at_the_baselines(**training):
    cluster = Cluster(*TASKS, **LORA, training={"maxParallelJobs": 1, **training})
    run_until(cluster, "baseline")
    (name,) = cluster.jobs("baseline")
    assert stages(cluster, name) == ALL
    return cluster, name


def orders(cluster, name):
    return {
        each["stage"]: each for each in json.loads(cluster.objects["ConfigMap", name]["data"][ORDERS_KEY])["orders"]
    }


def stages(cluster, name):
    return set(orders(cluster, name))


def trained_by_open_jobs(cluster):
    return [stages(cluster, name) for name in cluster.jobs("baseline")]


def succeeds(cluster, name, stage):
    """One of several stages reports its result."""
    order = orders(cluster, name)[stage]
    packed = pack_manifest(cluster._manifest(name, order))
    cluster.objects["ConfigMap", name].setdefault("binaryData", {})[manifest_key(order["digest"])] = packed


def fails(cluster, name, **kinds):
    """The Job fails for good; its pod has reported these failures."""
    given = orders(cluster, name)
    failures = [
        {"stage": stage, "kind": kind, "message": f"{kind} of {stage}", "digest": given[stage]["digest"]}
        for stage, kind in kinds.items()
    ]
    if failures:
        document = failures[0] | ({"others": failures[1:]} if failures[1:] else {})
        cluster.objects["ConfigMap", name]["data"][FAILURE_KEY] = json.dumps(document)
    cluster.end(name, "Failed", "Job has reached the specified backoff limit")
    cluster.settle()


def test_there_are_as_many_jobs_as_may_be_at_work():
    cluster = Cluster(*TASKS, **LORA, training={"maxParallelJobs": 3})
    run_until(cluster, "baseline")
    assert sorted(map(len, trained_by_open_jobs(cluster))) == [1, 1, 2]
    assert set().union(*trained_by_open_jobs(cluster)) == ALL
    one_node = Cluster(*TASKS, **LORA, access="ReadWriteOnce", training={"maxParallelJobs": 3})
    run_until(one_node, "baseline")
    assert trained_by_open_jobs(one_node) == [ALL], "one Job at a time mounts the claim"


def test_one_wrong_input_fails_one_baseline_and_the_others_go_on():
    cluster, name = at_the_baselines()
    succeeds(cluster, name, FIRST)
    fails(cluster, name, **{SECOND: "UserError", THIRD: "Fault"})
    tried = []
    while cluster.jobs("baseline"):
        (job,) = cluster.jobs("baseline")
        tried.append(stages(cluster, job))
        assert cluster.condition("Ready")["message"].startswith(f"{SECOND}: UserError of {SECOND}")
        cluster.finish(job)
        cluster.settle()
    assert sorted(tried, key=str) == [{THIRD}, {FOURTH}]
    (row,) = [row for row in cluster.model["status"]["stages"] if row["name"] == "baseline"]
    assert (row["done"], row["failed"]) == (3, 1)


@pytest.mark.parametrize(
    "kinds", [{}, {FIRST: "Fault"}, dict.fromkeys(sorted(ALL), "Retryable")], ids=["killed", "one", "all"]
)
def test_after_a_fault_that_may_be_of_any_of_them_each_is_tried_by_itself(kinds):
    cluster, name = at_the_baselines()
    fails(cluster, name, **kinds)
    (bad,) = cluster.jobs("baseline")
    tried = [stages(cluster, bad)]
    fails(cluster, bad)
    while cluster.jobs("baseline"):
        (job,) = cluster.jobs("baseline")
        tried.append(stages(cluster, job))
        cluster.finish(job)
        cluster.settle()
    assert sorted(tried, key=str) == [{stage} for stage in sorted(ALL)]
    cluster.to_the_end()
    ready = cluster.condition("Ready")
    assert ready["reason"] == "StageFailed"
    assert ready["message"].startswith(*tried[0])


def test_memory_that_ran_out_for_all_of_them_may_suffice_for_each():
    cluster, name = at_the_baselines()
    killed = {"name": "trainer", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    show(cluster, pod(name, "Failed", containerStatuses=[killed]))
    fails(cluster, name)
    assert [len(each) for each in trained_by_open_jobs(cluster)] == [1]
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_that_they_failed_together_is_known_after_the_job_is_removed():
    cluster, name = at_the_baselines()
    fails(cluster, name, **{FIRST: "Fault"})
    del cluster.objects["Job", name]
    cluster.now = ENDED + 86_400.0
    cluster.to_the_end()
    assert cluster.job_runs.count(name) == 1
    assert cluster.model["status"]["stage"] == "Trained"


def test_a_refresh_trains_them_together_again():
    cluster, name = at_the_baselines()
    fails(cluster, name, **{FIRST: "UserError"})
    (alone,) = cluster.jobs("baseline")
    cluster.annotate(REFRESH_ANNOTATION, "tuesday")
    cluster.settle()
    cluster.finish(cluster.jobs("resolve")[0])
    cluster.settle()
    assert cluster.jobs("baseline") == [alone], "what is at work goes on"
    cluster.finish(alone)
    cluster.settle()
    assert [len(each) for each in trained_by_open_jobs(cluster)] == [3]
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_waiting_baselines_that_have_a_deadline_are_not_replaced_for_ever():
    cluster, name = at_the_baselines(activeDeadlineSeconds=600)
    assert cluster.objects["Job", name]["spec"]["activeDeadlineSeconds"] == 4 * 600
    show(cluster, pod(name, "Pending"))
    cluster.settle()
    assert cluster.job_runs.count(name) == 1
