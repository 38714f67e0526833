"""What units are told, and the frozen spec of a run."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import CleanUpOrder, Orders, ResolveOrder
from multitask_api.resource import MultiTaskModelSpec
from multitask_operator.objects.configs import (
    LIMIT,
    ROOM,
    clean_up_configmap,
    resolve_configmap,
    run_snapshot,
    unit_configmap,
)
from multitask_operator.objects.errors import TooLarge
from unit.operator.builders import task
from unit.operator.objects.samples import OWNER, ready, resource, unit


def test_a_units_configmap_holds_its_orders():
    desk = resource()
    prepare = unit(desk, "prepare")
    found = unit_configmap(OWNER, desk.spec, prepare)
    assert (found["metadata"]["name"], found["metadata"]["annotations"]) == (prepare.name, prepare.annotations)
    assert list(found["data"]) == ["orders.json"]
    assert Orders.model_validate_json(found["data"]["orders.json"]).orders == prepare.orders
    assert [order.stage for order in prepare.orders] == sorted(order.stage for order in ready(desk, "prepare"))


def test_resolve_gets_the_resource_without_its_status():
    desk = resource()
    found = resolve_configmap(OWNER, desk, unit(desk, "resolve"))
    order = ResolveOrder.model_validate_json(found["data"]["resolve.json"])
    assert (order.model.spec, order.model.status, order.storage) == (desk.spec, None, "/multitask/claims/models/desk")


def test_a_clean_up_is_told_the_storage_and_what_its_runs_were_told_of_the_model():
    desk = resource()
    found = clean_up_configmap(OWNER, desk.spec, unit(desk, "clean-up"))
    order = CleanUpOrder.model_validate_json(found["data"]["clean-up.json"])
    assert order.storage == "/multitask/claims/models/desk"
    assert {order.model} == {each.model for each in ready(desk, "prepare")}


def test_a_run_keeps_its_spec_and_image():
    desk = resource()
    found = run_snapshot(OWNER, desk.spec, 7, "trainer:1")
    assert found["metadata"]["name"] == "desk-run-7"
    assert found["metadata"]["annotations"] == {"multitask.dev/generation": "7"}
    assert found["metadata"]["labels"]["multitask.dev/kind"] == "run"
    snapshot = json.loads(found["data"]["snapshot.json"])
    assert (snapshot["generation"], snapshot["trainerImage"]) == (7, "trainer:1")
    assert MultiTaskModelSpec.model_validate(snapshot["spec"]) == desk.spec


def of_labels(tasks, labels, length):
    """A resource of so many tasks, each with so many labels of that length."""
    names = [f"{index:0{length}d}" for index in range(labels)]
    return resource(*(task(f"task-{index}", labels=names) for index in range(tasks)))


def test_the_largest_resource_fits():
    desk = of_labels(128, 256, 15)
    told = unit_configmap(OWNER, desk.spec, unit(desk, "prepare"))["data"]["orders.json"]
    assert len(told) < LIMIT - ROOM
    resolve_configmap(OWNER, desk, unit(desk, "resolve"))
    run_snapshot(OWNER, desk.spec, 1, "trainer:1")


def test_what_does_not_fit_says_how_many_tasks_and_labels_it_has():
    desk = of_labels(128, 256, 40)
    with pytest.raises(TooLarge) as raised:
        resolve_configmap(OWNER, desk, unit(desk, "resolve"))
    message = str(raised.value)
    assert message.startswith("spec.tasks: what resolve is told has 1,")
    assert "with 128 tasks and 32768 labels, and a ConfigMap holds 917,504 of it; shorten labels" in message
