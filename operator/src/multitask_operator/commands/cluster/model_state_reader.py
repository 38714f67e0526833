"""One look at a model with a viewer's permissions: what `observe` reads, without what only the operator may."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches

from multitask_api.errors import UserError
from multitask_api.resource.model import API_VERSION
from multitask_operator.cluster.client import Client
from multitask_operator.cluster.errors import Forbidden, NotFound
from multitask_operator.cluster.observe import sibling_models_of, warnings
from multitask_operator.objects.names import selector
from multitask_operator.reconciler.cluster_state import ClusterState, Object, pvc_names, referenced_configmap_names

KIND = "MultiTaskModel"


class NoSuchModel(UserError):
    """There is no resource of that name, or the cluster does not know the kind."""


async def read_model_state(client: Client, namespace: str, name: str, now: float) -> ClusterState:
    """The model with its Jobs, pods and ConfigMaps, ``now`` in Unix seconds.

    Raises NoSuchModel, and ClusterError where something is not answered; a claim that the user may not read is left
    out.
    """
    try:
        model = await client.get(API_VERSION, KIND, name, namespace)
    except NotFound as error:
        raise NoSuchModel(await _instead(client, namespace, name)) from error
    labels = selector(name)
    claims: dict[str, Object | None] = {}
    for claim in pvc_names(model):
        with suppress(Forbidden):
            claims[claim] = await _get(client, "PersistentVolumeClaim", claim, namespace)
    others: tuple[Object, ...] = ()
    with suppress(Forbidden):
        others = await sibling_models_of(client, model)
    raw = ClusterState(
        namespace=namespace,
        name=name,
        model=model,
        jobs=await client.list("batch/v1", "Job", namespace, labels),
        pods=await client.list("v1", "Pod", namespace, labels),
        configmaps=await client.list("v1", "ConfigMap", namespace, labels),
        pvcs=claims,
        sibling_models=others,
        referenced_configmaps={
            each: await _get(client, "ConfigMap", each, namespace) for each in referenced_configmap_names(model)
        },
    )
    return replace(raw, warnings=await warnings(client, raw, now))


async def _get(client: Client, kind: str, name: str, namespace: str) -> Object | None:
    try:
        return await client.get("v1", kind, name, namespace)
    except NotFound:
        return None


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
