"""An edit of pods reaches the Jobs that wait, and leaves those alone that run."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import ORDERS_KEY, POD_SETTINGS_ANNOTATION
from multitask_operator.reconciler.blockers import REMEDIATION
from support.graph_builders import task
from support.pods import pod, running
from support.simulation import SETTINGS, Cluster, run_until, show

TASKS = (task("urgency"), task("intent"))
EDITS = {
    "no GPU": {"training": {"gpusPerNode": 0}},
    "another queue": {"training": {"queueName": "gold"}},
    "more memory": {"training": {"resources": {"limits": {"memory": "64Gi"}}}},
    "a node selector": {"training": {"podTemplate": {"spec": {"nodeSelector": {"pool": "a100"}}}}},
    "a Secret": {"credentials": [{"secretRef": {"name": "hub"}}]},
    "a pull Secret": {"imagePullSecrets": [{"name": "registry"}]},
    "an account": {"serviceAccountName": "trainers"},
    "a volume": {"training": {"podTemplate": {"spec": {"volumes": [{"name": "cache", "emptyDir": {}}]}}}},
    "two nodes": {"training": {"nodes": 2}},
    "a deadline": {"training": {"activeDeadlineSeconds": 3600}},
}


def at_the_baselines(**spec):
    cluster = Cluster(*TASKS, **spec)
    run_until(cluster, "baseline")
    return cluster


def edit(cluster, **spec):
    """Apply the spec, and let the new generation be resolved."""
    cluster.edit(*TASKS, **spec)
    cluster.settle()
    cluster.finish(cluster.jobs("resolve")[0])
    cluster.settle()


def uids(cluster):
    return {name: cluster.objects["Job", name]["metadata"]["uid"] for name in cluster.jobs("baseline")}


@pytest.mark.parametrize(
    ("sentence", "recorded"),
    # Older releases had no deadline.
    [(sentence, recorded) for sentence in EDITS for recorded in (True, False) if recorded or sentence != "a deadline"],
)
def test_a_waiting_job_is_replaced_by_one_with(sentence, recorded):
    cluster = at_the_baselines()
    names = cluster.jobs("baseline")
    for name in names:
        show(cluster, pod(name, "Pending", name=f"p-{name}"))
        if not recorded:
            del cluster.objects["Job", name]["metadata"]["annotations"][POD_SETTINGS_ANNOTATION]
    before = uids(cluster)
    edit(cluster, **EDITS[sentence])
    after = uids(cluster)
    assert list(after) == names, "the same stages"
    assert not set(before.values()) & set(after.values())
    expected = at_the_baselines(**EDITS[sentence])
    for name in names:
        mine, fresh = (each.objects["Job", name] for each in (cluster, expected))
        assert mine["spec"] == fresh["spec"]
        assert mine["metadata"]["labels"] == fresh["metadata"]["labels"]
    orders = json.loads(cluster.objects["ConfigMap", names[0]]["data"][ORDERS_KEY])["orders"]
    assert orders[0]["device"] == ("cpu" if sentence == "no GPU" else "cuda")


@pytest.mark.parametrize("recorded", [True, False], ids=["with a hash", "of an older release"])
@pytest.mark.parametrize("sentence", EDITS)
def test_a_job_whose_pods_run_goes_on_after(sentence, recorded):
    cluster = at_the_baselines()
    for name in cluster.jobs("baseline"):
        show(cluster, running(name, cluster.now, name=f"p-{name}"))
        if not recorded:
            del cluster.objects["Job", name]["metadata"]["annotations"][POD_SETTINGS_ANNOTATION]
    before = uids(cluster)
    edit(cluster, **EDITS[sentence])
    assert uids(cluster) == before


@pytest.mark.parametrize("sentence", ["replicas", "the number of Jobs", "nothing"])
def test_a_waiting_job_stays_after_an_edit_of(sentence):
    cluster = at_the_baselines()
    before = uids(cluster)
    edits = {"replicas": {"serving": {"replicas": 2}}, "the number of Jobs": {"training": {"maxParallelJobs": 9}}}
    edit(cluster, **edits.get(sentence, {}))
    assert uids(cluster) == before


def test_of_a_job_on_two_nodes_one_pod_that_runs_does_nothing_yet():
    cluster = at_the_baselines(training={"nodes": 2})
    for name in cluster.jobs("baseline"):
        show(cluster, running(name, cluster.now, name=f"a-{name}"), pod(name, "Pending", name=f"b-{name}"))
    before = uids(cluster)
    edit(cluster, training={"nodes": 2, "gpusPerNode": 2})
    assert not set(before.values()) & set(uids(cluster).values())


def test_a_job_that_no_pod_fits_between_two_attempts_is_replaced():
    cluster = at_the_baselines()
    for name in cluster.jobs("baseline"):
        show(cluster, pod(name, "Failed", name=f"a-{name}"), pod(name, "Pending", name=f"b-{name}"))
    before = uids(cluster)
    edit(cluster, **EDITS["more memory"])
    assert not set(before.values()) & set(uids(cluster).values())


def test_a_resolve_job_that_waits_takes_what_the_installation_changes():
    cluster = Cluster(*TASKS)
    cluster.settle()
    (name,) = cluster.jobs("resolve")
    before = cluster.objects["Job", name]["metadata"]["uid"]
    cluster.settings = SETTINGS.__class__(trainer_image=SETTINGS.trainer_image, image_pull_policy="Always")
    cluster.settle()
    assert cluster.jobs("resolve") == [name]
    assert cluster.objects["Job", name]["metadata"]["uid"] != before
    written = cluster.written
    cluster.settle()
    assert cluster.written == written


def test_fewer_jobs_at_once_removes_the_newest_that_wait_and_none_that_run():
    cluster = at_the_baselines()
    first, second = cluster.jobs("baseline")
    show(cluster, running(second, cluster.now), pod(first, "Pending", name="w"))
    edit(cluster, training={"maxParallelJobs": 1})
    assert cluster.jobs("baseline") == [second]
    cluster.objects.pop(("Pod", "p"))
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


ADVICE = {
    "NoGPUFree": (EDITS["no GPU"], {"training": {"maxParallelJobs": 1}}),
    "Unschedulable": (EDITS["more memory"], EDITS["a node selector"]),
    "Queued": (EDITS["another queue"],),
    "QuotaExceeded": (EDITS["more memory"], {"training": {"maxParallelJobs": 1}}),
    "ImageNotPulled": (EDITS["a pull Secret"],),
}


@pytest.mark.parametrize(("reason", "followed"), [(reason, each) for reason, edits in ADVICE.items() for each in edits])
def test_advice_works_for_a_job_that_waits(reason, followed):
    assert REMEDIATION[reason]
    cluster = at_the_baselines()
    before = uids(cluster)
    edit(cluster, **followed)
    assert uids(cluster) != before
