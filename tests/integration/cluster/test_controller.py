"""Serving one key against a real API server, with decisions that are made for the test."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_operator.controller import CONFLICT_REQUEUE_SECONDS, Controller, NamespacedName, Reconcile, WriteRejected
from multitask_operator.reconciler.actions import Create, PatchStatus, Result
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.settings import Settings
from support.cluster import resources

SETTINGS = Settings(trainer_image="example.test/trainer:1", resync_seconds=600)
PATH = "/apis/multitask.dev/v1alpha1/namespaces/{}/multitaskmodels"


@pytest.fixture
async def client(cluster: ClusterClient) -> AsyncIterator[Client]:
    async with Client(await connect(cluster.admin)) as connected:
        yield connected


def controller(client: Client, reconcile: Reconcile) -> Controller:
    return Controller(client, SETTINGS, reconcile, clock=lambda: 1_000_000.0, rng=random.Random(1))


def stage(state: ClusterState, text: str) -> PatchStatus:
    return PatchStatus({"stage": text}, state.model["metadata"]["resourceVersion"])


def configmap(state: ClusterState) -> Create:
    metadata = {"name": "unit", "namespace": state.namespace}
    return Create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


def status(rest: httpx.Client, namespace: str) -> Any:
    return objects.get(rest, f"{PATH.format(namespace)}/desk").get("status")


async def test_a_model_that_is_gone_is_not_reconciled_again(client: Client, namespace: str) -> None:
    def reconcile(*_: Any) -> Result:
        raise AssertionError("there is nothing to reconcile")

    assert await controller(client, reconcile).reconcile(NamespacedName(namespace, "desk")) is None


@pytest.mark.parametrize(
    ("requeue_seconds", "least", "most"),
    [
        pytest.param(None, 300, 600, id="nothing is awaited: the periodic resync, at random in half its interval"),
        pytest.param(20.0, 20, 20, id="the result wants an earlier reconcile"),
        pytest.param(9000.0, 300, 600, id="the result wants a later reconcile than the periodic resync"),
    ],
)
async def test_when_it_reconciles_again(
    client: Client, rest: httpx.Client, namespace: str, requeue_seconds: float | None, least: float, most: float
) -> None:
    objects.post(rest, PATH.format(namespace), resources.model())
    again = await controller(client, lambda *_: Result(requeue_after=requeue_seconds)).reconcile(
        NamespacedName(namespace, "desk")
    )
    assert again is not None
    assert least <= again <= most


async def test_a_concurrent_write_of_somebody_else_means_a_new_reconcile_soon(
    client: Client, rest: httpx.Client, namespace: str
) -> None:
    objects.post(rest, PATH.format(namespace), resources.model())

    def reconcile(state: ClusterState, *_: Any) -> Result:
        objects.patch_status(rest, f"{PATH.format(namespace)}/desk", {"stage": "somebody's"})
        return Result((stage(state, "ours"), configmap(state)))

    assert await controller(client, reconcile).reconcile(NamespacedName(namespace, "desk")) == CONFLICT_REQUEUE_SECONDS
    assert status(rest, namespace) == {"stage": "somebody's"}


async def test_a_rejected_write_is_in_the_status_and_nothing_else_is_written(
    client: Client, rest: httpx.Client, namespace: str
) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/configmaps": "0"}}}
    objects.post(rest, f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
    objects.post(rest, PATH.format(namespace), resources.model())

    def reconcile(state: ClusterState, *_: Any) -> Result:
        return Result(
            (configmap(state), stage(state, state.rejected_writes[0].reason if state.rejected_writes else "never"))
        )

    with pytest.raises(WriteRejected, match=r"^cannot create ConfigMap unit: .*exceeded quota: few"):
        await controller(client, reconcile).reconcile(NamespacedName(namespace, "desk"))
    assert status(rest, namespace) == {"stage": "Forbidden"}
