"""Reads everything that a decision about one MultiTaskModel may use: live, or from what the watches have shown."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from multitask_api.cluster import GC_ANNOTATION, RUN
from multitask_api.resource.model import API_VERSION
from multitask_api.types import JsonObject
from multitask_kubernetes.errors import Forbidden, NotFound
from multitask_kubernetes.kinds import RBAC
from multitask_operator.objects.names import selector
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.finalizers import has_finalizer
from multitask_operator.reconciler.serving.checks import servers_needing_events
from multitask_operator.reconciler.state.accessors import is_being_deleted
from multitask_operator.reconciler.state.cluster_state import ClusterState, named_pvc_names, referenced_configmap_names
from multitask_operator.reconciler.state.revision_state import revision_states
from multitask_operator.reconciler.state.stage_job import stage_jobs

#: A model's children that people may read, its servers, which older roles do not show them, and those that only the
#: operator may read: field of `ClusterState` → kind.
VIEWER_CHILDREN = {"jobs": ("batch/v1", "Job"), "pods": ("v1", "Pod"), "configmaps": ("v1", "ConfigMap")}
SERVING_CHILDREN = {
    "deployments": ("apps/v1", "Deployment"),
    "endpoint_slices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "task_routes": (API_VERSION, "TaskRoute"),
}
OPERATOR_CHILDREN = {
    "services": ("v1", "Service"),
    "service_accounts": ("v1", "ServiceAccount"),
    "roles": (RBAC, "Role"),
    "role_bindings": (RBAC, "RoleBinding"),
    "network_policies": ("networking.k8s.io/v1", "NetworkPolicy"),
    "disruption_budgets": ("policy/v1", "PodDisruptionBudget"),
}

#: Objects whose Events are read, at most: the first that is stuck speaks for the others.
_MAX_OBJECTS = 6


class Reader(Protocol):
    """Answers as `Client` does."""

    async def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> JsonObject:
        """See `Client.get`."""

    async def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> tuple[JsonObject, ...]:
        """See `Client.list`."""


async def observe(
    client: Reader, namespace: str, name: str, now: float, *, as_viewer: bool = False
) -> ClusterState | None:
    """Read the model and everything that a decision about it may use, concurrently; never a Secret.

    None: there is no such model. ``now`` in Unix seconds: Events are read too about what should show something by then
    and does not. ``as_viewer``: with a person's permissions. Then namespace, Services and RBAC objects are not read,
    and claims, other models and Events are left out where that is forbidden.

    Raises ClusterError when a part could not be read.
    """
    model = await _get(client, API_VERSION, "MultiTaskModel", name, namespace)
    if model is None:
        return None
    kinds = VIEWER_CHILDREN | SERVING_CHILDREN | ({} if as_viewer else OPERATOR_CHILDREN)
    lists, namespace_object, pvcs, configmaps, siblings = await _together(
        _together(
            *(
                _children(client, kind, namespace, name, skip_forbidden=as_viewer and field in SERVING_CHILDREN)
                for field, kind in kinds.items()
            )
        ),
        _nothing() if as_viewer else _get(client, "v1", "Namespace", namespace, None),
        _named(client, "PersistentVolumeClaim", named_pvc_names(model), namespace, skip_forbidden=as_viewer),
        _named(client, "ConfigMap", referenced_configmap_names(model), namespace),
        _sibling_models(client, model, skip_forbidden=as_viewer),
    )
    cluster = ClusterState(
        namespace=namespace,
        name=name,
        model=model,
        namespace_object=namespace_object,
        pvcs=pvcs,
        referenced_configmaps=configmaps,
        sibling_models=siblings,
        **dict(zip(kinds, lists, strict=True)),
    )
    return replace(cluster, warnings=await _warnings(client, cluster, now, skip_forbidden=as_viewer))


async def _children(
    client: Reader, kind: tuple[str, str], namespace: str, name: str, *, skip_forbidden: bool
) -> tuple[JsonObject, ...]:
    try:
        return await client.list(*kind, namespace, selector(name))
    except Forbidden:
        if not skip_forbidden:
            raise
        return ()


async def _warnings(client: Reader, cluster: ClusterState, now: float, *, skip_forbidden: bool) -> dict[str, str]:
    """`ClusterState.warnings`; empty for a person who may not list Events: the reasons are then less exact."""
    late = [job for job in stage_jobs(cluster, without=(RUN,)) if job.age(now) >= blockers.EVENT_DELAY]
    objects = [item for job in late for item in blockers.objects_needing_events(job)]
    servers = (pod for revision in revision_states(cluster).values() for pod in servers_needing_events(revision, now))
    objects = [*objects[:_MAX_OBJECTS], *itertools.islice(servers, _MAX_OBJECTS)]
    warnings: dict[str, str] = {}
    try:
        for item in objects:
            uid = item["metadata"]["uid"]
            events = await client.list("v1", "Event", cluster.namespace, fields=f"involvedObject.uid={uid}")
            message = newest_warning(events)
            if message is not None:
                warnings[uid] = message
    except Forbidden:
        if not skip_forbidden:
            raise
    return warnings


def newest_warning(events: Sequence[JsonObject]) -> str | None:
    """The message of the newest Event about an object, if that is a Warning. A Warning that other Events followed is
    over: a pod, for instance, has been scheduled since."""
    newest = max(events, key=lambda event: (_when(event), event.get("type") == "Warning"), default=None)
    if newest is None or newest.get("type") != "Warning":
        return None
    return str(newest.get("message") or newest["reason"])


def _when(event: JsonObject) -> str:
    # The scheduler's have microseconds, a kubelet's whole seconds: as text these sort behind those of the same second.
    timestamp: str = (
        (event.get("series") or {}).get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
    return timestamp


async def _sibling_models(client: Reader, model: JsonObject, *, skip_forbidden: bool) -> tuple[JsonObject, ...]:
    """The other models of the namespace, if ``model`` waits for its clean-up, or results that it does not use are to be
    removed: they may use what would go."""
    metadata = model["metadata"]
    is_ordered = GC_ANNOTATION in (metadata.get("annotations") or {})
    if not is_ordered and not (is_being_deleted(model) and has_finalizer(model)):
        return ()
    try:
        models = await client.list(API_VERSION, "MultiTaskModel", metadata["namespace"])
    except Forbidden:
        if not skip_forbidden:
            raise
        return ()
    return tuple(item for item in models if item["metadata"]["uid"] != metadata["uid"])


async def _nothing() -> None:
    """For what a viewer does not read."""


async def _get(client: Reader, api_version: str, kind: str, name: str, namespace: str | None) -> JsonObject | None:
    try:
        return await client.get(api_version, kind, name, namespace)
    except NotFound:
        return None


async def _named(
    client: Reader, kind: str, names: Iterable[str], namespace: str, *, skip_forbidden: bool = False
) -> dict[str, JsonObject | None]:
    """The objects called ``names``; None: there is none. With ``skip_forbidden`` those that may not be read are left
    out."""

    async def get(name: str) -> dict[str, JsonObject | None]:
        try:
            return {name: await _get(client, "v1", kind, name, namespace)}
        except Forbidden:
            if not skip_forbidden:
                raise
            return {}

    every = await _together(*(get(name) for name in names))
    return {name: item for each in every for name, item in each.items()}


async def _together(*calls: Awaitable[Any]) -> tuple[Any, ...]:
    """All results, or the first error once every call has ended: none is left running."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return tuple(results)
