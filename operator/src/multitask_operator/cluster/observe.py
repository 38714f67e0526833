"""One look at everything that a decision about one MultiTaskModel may use. Live: nothing is kept from look to look."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from multitask_api.cluster import RUN
from multitask_api.resource.model import API_VERSION
from multitask_operator.cluster.client import Client
from multitask_operator.cluster.errors import Forbidden, NotFound
from multitask_operator.objects.names import selector
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.cluster_state import ClusterState, Object, pvc_names, referenced_configmap_names
from multitask_operator.reconciler.finalizers import has_finalizer, is_being_deleted
from multitask_operator.reconciler.stage_job import stage_jobs

RBAC = "rbac.authorization.k8s.io/v1"


#: Objects whose Events are asked for, at most: the first that is stuck says it for all.
_MOST = 6


async def observe(client: Client, namespace: str, name: str, now: float) -> ClusterState:
    """Read what is there, concurrently; never a Secret. ``now`` in Unix seconds: of what should show something by then
    and does not, Events are read too. Raises ClusterError when a part could not be read."""
    model = await _get(client, API_VERSION, "MultiTaskModel", name, namespace)
    if model is None:
        return ClusterState(namespace=namespace, name=name)
    labels = selector(name)
    children = [
        client.list(api_version, kind, namespace, labels)
        for api_version, kind in (
            ("batch/v1", "Job"),
            ("v1", "Pod"),
            ("v1", "ConfigMap"),
            ("v1", "Service"),
            ("v1", "ServiceAccount"),
            (RBAC, "Role"),
            (RBAC, "RoleBinding"),
        )
    ]
    lists, namespace_object, claims, references, others = await _together(
        _together(*children),
        _get(client, "v1", "Namespace", namespace, None),
        _named(client, "PersistentVolumeClaim", pvc_names(model), namespace),
        _named(client, "ConfigMap", referenced_configmap_names(model), namespace),
        sibling_models_of(client, model),
    )
    jobs, pods, configmaps, services, service_accounts, roles, role_bindings = lists
    raw = ClusterState(
        namespace=namespace,
        name=name,
        model=model,
        namespace_object=namespace_object,
        jobs=jobs,
        pods=pods,
        configmaps=configmaps,
        services=services,
        service_accounts=service_accounts,
        roles=roles,
        role_bindings=role_bindings,
        pvcs=claims,
        referenced_configmaps=references,
        sibling_models=others,
    )
    return replace(raw, warnings=await warnings(client, raw, now))


async def warnings(client: Client, raw: ClusterState, now: float) -> dict[str, str]:
    """For `RawState.warnings`; empty for who may not list Events: then it is said less exactly."""
    late = (unit for unit in stage_jobs(raw, without=(RUN,)) if blockers.age(unit, now) >= blockers.EVENT_DELAY)
    silent = [item for unit in late for item in blockers.objects_needing_events(unit)][:_MOST]
    found: dict[str, str] = {}
    with suppress(Forbidden):
        for item in silent:
            uid = item["metadata"]["uid"]
            said = newest_warning(await client.list("v1", "Event", raw.namespace, fields=f"involvedObject.uid={uid}"))
            if said is not None:
                found[uid] = said
    return found


def newest_warning(events: Sequence[Object]) -> str | None:
    """What the newest of the Events about an object says, if that is a Warning: one that others followed is over, as
    that of a pod which now has its node."""
    newest = max(events, key=lambda event: (_when(event), event.get("type") == "Warning"), default=None)
    if newest is None or newest.get("type") != "Warning":
        return None
    return str(newest.get("message") or newest["reason"])


def _when(event: Object) -> str:
    # The scheduler's have microseconds, a kubelet's whole seconds: as texts these are the later ones of a second.
    found: str = (
        (event.get("series") or {}).get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
    return found


async def sibling_models_of(client: Client, model: Object) -> tuple[Object, ...]:
    """The other models of the namespace, if ``model`` waits for its clean-up: they may use what would go."""
    if not (is_being_deleted(model) and has_finalizer(model)):
        return ()
    metadata = model["metadata"]
    every = await client.list(API_VERSION, "MultiTaskModel", metadata["namespace"])
    return tuple(item for item in every if item["metadata"]["uid"] != metadata["uid"])


async def _get(client: Client, api_version: str, kind: str, name: str, namespace: str | None) -> Object | None:
    try:
        return await client.get(api_version, kind, name, namespace)
    except NotFound:
        return None


async def _named(client: Client, kind: str, names: Iterable[str], namespace: str) -> dict[str, Object | None]:
    names = tuple(names)
    found = await _together(*(_get(client, "v1", kind, name, namespace) for name in names))
    return dict(zip(names, found, strict=True))


async def _together(*calls: Awaitable[Any]) -> tuple[Any, ...]:
    """All results, or the first error once every call has ended: none is left running."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return tuple(results)
