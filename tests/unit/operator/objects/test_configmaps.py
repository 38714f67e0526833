"""The orders of Jobs, and the frozen spec of a run."""

from __future__ import annotations

import base64
import json

import pytest

from multitask_api.cluster import CONFIGMAP_LIMIT, CONFIGMAP_POD_SHARE, CleanUpOrder, Orders, ResolveOrder
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.packing import pack_manifest
from multitask_api.stages.versions import VERSIONS
from multitask_operator.objects.configmaps import (
    clean_up_configmap,
    future_order_bytes,
    resolve_configmap,
    run_snapshot,
    stage_configmap,
)
from multitask_operator.objects.errors import TooLarge
from multitask_operator.objects.orders import stage_order
from multitask_operator.objects.stage_jobs import StageJobSpec
from support.budgets import largest
from support.graph_builders import all_done, graph_of, task
from support.object_samples import OWNER, job_spec, ready, resource


def test_the_configmap_of_a_job_holds_its_orders():
    desk = resource()
    prepare = job_spec(desk, "prepare")
    configmap = stage_configmap(OWNER, desk.spec, prepare)
    assert (configmap["metadata"]["name"], configmap["metadata"]["annotations"]) == (prepare.name, prepare.annotations)
    assert list(configmap["data"]) == ["orders.json"]
    assert Orders.model_validate_json(configmap["data"]["orders.json"]).orders == prepare.orders
    assert [order.stage for order in prepare.orders] == sorted(order.stage for order in ready(desk, "prepare"))


def test_resolve_gets_what_it_reads_of_the_resource():
    desk = resource(training={"maxLength": 4096, "nodes": 2, "podTemplate": {"spec": {"hostNetwork": True}}})
    configmap = resolve_configmap(OWNER, desk, job_spec(desk, "resolve"))
    order = ResolveOrder.model_validate_json(configmap["data"]["resolve.json"])
    spec = order.model.spec
    assert (order.model.status, order.storage) == (None, "/multitask/claims/models/desk")
    assert (spec.tasks, spec.base_model, spec.pretraining) == (desk.spec.tasks, desk.spec.base_model, None)
    # An older image rejects a field that it does not know: nothing goes in that it does not need.
    assert json.loads(configmap["data"]["resolve.json"])["model"]["spec"].keys() == {"baseModel", "tasks", "training"}
    assert spec.training.model_fields_set == {"max_length"}


def test_the_order_of_a_clean_up_names_the_storage_and_the_model_as_its_runs_did():
    desk = resource()
    configmap = clean_up_configmap(OWNER, desk.spec, job_spec(desk, "clean-up"))
    order = CleanUpOrder.model_validate_json(configmap["data"]["clean-up.json"])
    assert order.storage == "/multitask/claims/models/desk"
    assert {order.model} == {each.model for each in ready(desk, "prepare")}


def test_a_run_keeps_its_spec_image_and_versions():
    desk = resource()
    configmap = run_snapshot(OWNER, desk.spec, 7, "trainer:1", {"prepare": 2}, "monday")
    assert configmap["metadata"]["name"] == "desk-run-7"
    assert configmap["metadata"]["annotations"] == {"multitask.dev/generation": "7"}
    assert configmap["metadata"]["labels"]["multitask.dev/kind"] == "run"
    snapshot = json.loads(configmap["data"]["snapshot.json"])
    assert (snapshot["generation"], snapshot["trainerImage"]) == (7, "trainer:1")
    assert (snapshot["versions"], snapshot["refresh"]) == ({"prepare": 2}, "monday")
    assert MultiTaskModelSpec.model_validate(snapshot["spec"]) == desk.spec


def of_labels(tasks, labels, length):
    """A resource of so many tasks, each with so many labels of that length."""
    names = [f"{index:0{length}d}" for index in range(labels)]
    return resource(*(task(f"task-{index}", labels=names) for index in range(tasks)))


def test_the_largest_resource_fits():
    desk = of_labels(128, 256, 15)
    orders = stage_configmap(OWNER, desk.spec, job_spec(desk, "prepare"))["data"]["orders.json"]
    assert len(orders) < CONFIGMAP_LIMIT - CONFIGMAP_POD_SHARE
    resolve_configmap(OWNER, desk, job_spec(desk, "resolve"))
    run_snapshot(OWNER, desk.spec, 1, "trainer:1", VERSIONS, None)


def test_what_does_not_fit_is_rejected_with_its_number_of_tasks_and_labels():
    desk = of_labels(128, 256, 40)
    with pytest.raises(TooLarge) as raised:
        resolve_configmap(OWNER, desk, job_spec(desk, "resolve"))
    message = str(raised.value)
    assert message.startswith("spec.tasks: the orders of resolve would have 1,")
    assert "with 128 tasks and 32768 labels, and a ConfigMap has room for 8" in message
    assert "; shorten labels and prompts, ask for fewer seeds, or put tasks into a second" in message


# the sentence, seeds, groups, characters of every address, labels
SHAPES = [
    ("groups of 32", 1, 4, 80, 3),
    ("one group", 1, 1, 80, 3),
    ("many labels", 1, 1, 80, 240),
    ("many groups", 1, 16, 80, 3),
    ("long addresses", 1, 4, 400, 3),
    ("many seeds", 8, 1, 80, 3),
]


@pytest.mark.parametrize(("sentence", "seeds", "groups", "length", "labels"), SHAPES, ids=[row[0] for row in SHAPES])
def test_if_the_orders_of_resolve_fit_those_of_every_later_stage_do_with_its_report(
    sentence, seeds, groups, length, labels
):
    """Else a model would turn out to be too large after its baselines had been trained."""
    desk = a_model(seeds, groups, length, [f"{index:015d}" for index in range(labels)])
    counts = {split: dict.fromkeys(desk.spec.tasks[0].labels, 12_345) for split in ("train", "validation", "test")}
    manifests = all_done(desk, serve=False, prepare={"label_counts": counts})
    graph = graph_of(desk, manifests, serve=False)
    limit = size_of(resolve_configmap(OWNER, desk, job_spec(desk, "resolve")))
    for kind in {node.kind for node in graph.nodes}:
        nodes = [node for node in graph.of_kind(kind) if node.digest]
        orders = [stage_order(desk.metadata.name, desk.spec, graph, node) for node in nodes]
        together = [orders] if kind == "prepare" else [[order] for order in orders[:1]]
        for each in together:
            orders = size_of(stage_configmap(OWNER, desk.spec, StageJobSpec.of_stages(OWNER, 1, each)))
            assert orders <= limit + future_order_bytes(desk.spec)
            results = sum(len(base64.b64decode(pack_manifest(manifests[order.stage, order.digest]))) for order in each)
            assert results < CONFIGMAP_POD_SHARE


def a_model(seeds, groups, length, labels):
    """One of the most tasks, in so many groups, every address of that length."""
    tasks = largest(labels, groups)
    for index, each in enumerate(tasks):
        each["data"] = {split: {"uri": f"s3://b/{index}-{split}-".ljust(length, "x")} for split in each["data"]}
    return resource(
        *tasks,
        storage="s3://b/".ljust(length, "x"),
        filtering={"strategy": "Manual"},
        stages={"baseline": {"maxSteps": 100, "seeds": seeds}},
    )


def size_of(configmap):
    return sum(len(value.encode()) for value in configmap["data"].values())
