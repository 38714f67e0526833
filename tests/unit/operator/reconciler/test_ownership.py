"""Objects with a model's labels that it does not own are replaced, never half used; those of others are left alone."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.actions import Delete
from multitask_operator.reconciler.state.model_state import ModelState
from support.graph_builders import task
from support.simulation import Cluster, run_until

TASKS = (task("urgency"), task("intent"))


def nobody(item):
    del item["metadata"]["ownerReferences"]


def a_former_model(item):
    item["metadata"]["ownerReferences"][0]["uid"] = "u-former"


def an_owner_that_does_not_control_it(item):
    item["metadata"]["ownerReferences"][0]["controller"] = False


OWNERS = {"nobody": nobody, "a former model": a_former_model, "no controller": an_owner_that_does_not_control_it}


def at_the_baselines(**spec):
    cluster = Cluster(*TASKS, **spec)
    run_until(cluster, "baseline")
    return cluster


@pytest.mark.parametrize("kind", ["Job", "ConfigMap", "Service"])
@pytest.mark.parametrize("owner", OWNERS)
def test_one_of_the_objects_of_a_job_is_replaced_when_it_is_owned_by(owner, kind):
    cluster = at_the_baselines(training={"nodes": 2})
    name = cluster.jobs("baseline")[0]
    item = cluster.objects[kind, name]
    OWNERS[owner](item)
    cluster.settle()
    again = cluster.objects[kind, name]
    assert again["metadata"]["uid"] != item["metadata"]["uid"]
    assert again["metadata"]["ownerReferences"][0]["uid"] == "u-desk"
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


@pytest.mark.parametrize("owner", OWNERS)
def test_after_a_restore_every_object_is_replaced_and_the_model_is_trained(owner):
    cluster = at_the_baselines()
    cluster.finish(cluster.jobs("baseline")[0])
    before = {item["metadata"]["uid"] for item in cluster.objects.values() if item["kind"] in ("Job", "ConfigMap")}
    for item in cluster.objects.values():
        OWNERS[owner](item)
    cluster.to_the_end()
    after = [item["metadata"] for item in cluster.objects.values() if item["kind"] in ("Job", "ConfigMap")]
    assert not before & {metadata["uid"] for metadata in after}
    assert {metadata["ownerReferences"][0]["uid"] for metadata in after} == {"u-desk"}
    assert cluster.model["status"]["stage"] == "Trained"


def test_what_belongs_to_another_owner_is_neither_deleted_nor_used():
    cluster = at_the_baselines()
    name = cluster.jobs("baseline")[0]
    item = cluster.objects["ConfigMap", name]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "u-web", "controller": True}
    item["metadata"]["ownerReferences"] = [owner]
    cluster.finish(name)
    state = ModelState.of(cluster.observe(), cluster.now)
    (job,) = [job for job in state.stage_jobs if job.name == name]
    assert (job.configmap, job.manifests) == (None, {})
    deleted = [action for action in cluster.reconcile().actions if isinstance(action, Delete)]
    assert [(delete.kind, delete.name) for delete in deleted] == [("Job", name)], "it has nowhere to report to"
