"""Reads one model with a viewer's permissions."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches

from multitask_api.errors import UserError
from multitask_api.resource.model import API_VERSION
from multitask_operator.cluster.client import Client
from multitask_operator.cluster.errors import Forbidden, NotFound
from multitask_operator.cluster.observe import observe
from multitask_operator.reconciler.state.cluster_state import ClusterState

KIND = "MultiTaskModel"


class NoSuchModel(UserError):
    """There is no resource of that name, or the cluster does not know the kind."""


async def read_cluster_state(client: Client, namespace: str, name: str, now: float) -> ClusterState:
    """The model and its children, ``now`` in Unix seconds. Raises NoSuchModel, and ClusterError for a failed read."""
    cluster = await observe(client, namespace, name, now, as_viewer=True)
    if cluster is None:
        raise NoSuchModel(await _instead(client, namespace, name))
    return cluster


async def _instead(client: Client, namespace: str, name: str) -> str:
    try:
        names = [item["metadata"]["name"] for item in await client.list(API_VERSION, KIND, namespace)]
    except NotFound:
        return (
            "this cluster does not know the kind MultiTaskModel; install the operator's chart (docs/cluster.md), or"
            " choose another cluster with --context"
        )
    missing = f"there is no MultiTaskModel {name!r} in namespace {namespace!r}"
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"{missing}; nearest: {', '.join(near)}"
    with suppress(Forbidden):
        every = [item["metadata"] for item in await client.list(API_VERSION, KIND)]
        elsewhere = [item["namespace"] for item in every if item["name"] == name]
        if elsewhere:
            return f"{missing}; there is one in {', '.join(elsewhere[:3])}: add -n {elsewhere[0]}"
    return f"{missing}; {'there are: ' + ', '.join(names[:5]) if names else 'it has none: `kubectl get mtm -A`'}"
