"""Rollouts on a real API server, with its controllers, where two revisions do not fit: the test plays the scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from devcluster.cluster_client import ClusterClient
from devcluster.processes import until
from support.cluster.model_factory import apply, make_model
from support.cluster.served_model import SECONDS, ServedModel, served_model

ROLLOUT = {"rollout": {"steps": [50, 100], "minRequests": 50}}


@pytest.fixture(params=[{"replicas": 2}, {"replicas": 1, "allowDowntime": True}], ids=["one by one", "downtime"])
def serving(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**request.param, **ROLLOUT}


@pytest.fixture
def model(cluster: ClusterClient, rest: httpx.Client, serving: dict[str, Any]) -> Iterator[ServedModel]:
    """A served model, in a cluster that its servers fill."""
    namespace = f"room-for-{serving['replicas']}"
    with served_model(cluster, rest, namespace, make_model("urgency", serving=serving)) as model:
        model.until_rolled_out()
        model.room, model.hurry = serving["replicas"], 10.0
        yield model


def test_servers_change_in_the_room_that_there_is(model: ServedModel, serving: dict[str, Any]) -> None:
    before, replicas = str(model.status()["serving"]["revision"]), serving["replicas"]
    model.is_asked = replicas > 1
    ready: list[int] = []
    reasons: set[str] = set()

    def is_over() -> bool:
        model.look()
        ready.append(ready_servers(model))
        reasons.add(model.ready()[1])
        is_new = model.status()["serving"].get("revision") not in (None, before)
        return is_new and model.status()["serving"]["phase"] == "RolledOut" and servers(model)[before] == 0

    pods = {"podTemplate": {"spec": {"containers": [{"name": "server", "env": [{"name": "A", "value": "B"}]}]}}}
    apply(model.cluster, model.namespace, make_model("urgency", serving=serving | pods))
    until("the rollout is over", is_over, SECONDS)
    until("its servers are ready", lambda: model.look() or ready_servers(model) == replicas, SECONDS)

    assert sorted(servers(model).values()) == [0, replicas]
    assert max(ready) <= replicas
    assert min(ready) == replicas - 1
    assert model.unanswered == []
    assert ("AllowedDowntime" in reasons) is (replicas == 1)


def ready_servers(model: ServedModel) -> int:
    """Those that the gateways may use."""
    endpoints = (each for item in model.find("EndpointSlice") for each in item.get("endpoints") or ())
    return sum(bool(each["conditions"].get("ready")) for each in endpoints)


def servers(model: ServedModel) -> dict[str, int]:
    """Revision → servers that its Deployment asks for."""
    found = ((item["metadata"]["name"], item["spec"]["replicas"]) for item in model.get("Deployment"))
    return {name.rpartition("-")[2]: replicas for name, replicas in found}
