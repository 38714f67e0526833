"""Carries out what was decided, in order. If it ends in between, the next reconcile decides again."""

from __future__ import annotations

import contextlib
import datetime
import logging
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multitask_api.cluster import MANAGED_BY_LABEL, MODEL_LABEL
from multitask_api.resource.model import API_VERSION
from multitask_api.types import JsonObject
from multitask_kubernetes.client import FIELD_MANAGER, Client
from multitask_kubernetes.errors import AlreadyExists, ClusterError, Conflict, NotFound, Request, RequestRejected
from multitask_operator.formatting import cut
from multitask_operator.reconciler.actions import (
    Action,
    Apply,
    Create,
    Delete,
    DryRunCreate,
    Event,
    PatchConfigMap,
    PatchFinalizers,
    PatchRoute,
    PatchStatus,
)
from multitask_operator.reconciler.state.accessors import controller
from multitask_operator.reconciler.state.cluster_state import ClusterState, RejectedWrite

logger = logging.getLogger(__name__)

#: Bytes of an Event's note: the API server's message speaks of characters, but it counts bytes.
_NOTE = 1024


@dataclass(frozen=True)
class Applied:
    """How far it went. Nothing after a conflict or a rejected write was done."""

    conflict: bool = False
    """Somebody else wrote in between: what was decided is out of date."""
    rejected_write: RejectedWrite | None = None


async def apply(client: Client, cluster: ClusterState, actions: Sequence[Action]) -> Applied:
    """Do ``actions``, which were decided on ``cluster``, one after the other.

    Raises ClusterError where the API server could not be asked; an Event that cannot be posted is only logged.
    """
    for action in actions:
        try:
            await _do(client, cluster, action)
        except Conflict as error:
            logger.info("%s/%s: reconciling again: %s", cluster.namespace, cluster.name, error)
            return Applied(conflict=True)
        except RequestRejected as error:
            kind, name, body = _kind(action), error.request.name or cluster.name, _body(action)
            return Applied(
                rejected_write=RejectedWrite(
                    error.request.verb, kind, name, error.code, error.reason, error.message, body
                )
            )
    return Applied()


def _body(action: Action) -> JsonObject | None:
    return action.obj if isinstance(action, Create | DryRunCreate | Apply) else None


def _kind(action: Action) -> str:
    match action:
        case Create() | DryRunCreate() | Apply():
            return str(action.obj["kind"])
        case Delete():
            return action.kind
        case PatchConfigMap():
            return "ConfigMap"
        case PatchRoute():
            return "TaskRoute"
        case _:
            return "MultiTaskModel"


async def _do(client: Client, cluster: ClusterState, action: Action) -> None:
    match action:
        case Create():
            await _create(client, action.obj)
        case DryRunCreate():
            with contextlib.suppress(AlreadyExists):
                await client.create(action.obj, dry_run=True)
        case Apply():
            await _apply(client, action.obj)
        case Delete():
            await _delete(client, cluster, action)
        case PatchStatus():
            await _patch_status(client, cluster, action)
        case PatchFinalizers():
            await _patch_finalizers(client, cluster, action)
        case PatchConfigMap():
            await _patch_configmap(client, cluster, action)
        case PatchRoute():
            await _patch_route(client, cluster, action)
        case Event():
            await _post(client, cluster, action)


async def _create(client: Client, body: JsonObject) -> None:
    metadata = body["metadata"]
    try:
        await client.create(body)
        return
    except AlreadyExists:
        pass
    except NotFound as error:
        if body["kind"] != "PodGroup":
            raise
        request = Request("create", body["kind"], metadata["namespace"], metadata["name"])
        advice = f"{error}; install the scheduler that serves {body['apiVersion']}, or change gangScheduling"
        raise RequestRejected(request, 404, "NotFound", advice) from error
    try:
        existing = await client.get(body["apiVersion"], body["kind"], metadata["name"], metadata["namespace"])
    except NotFound as error:
        raise Conflict(f"{body['kind']} {metadata['name']} has just been deleted") from error
    _check_owner("create", body, existing)
    if _labels(existing) != _labels(body):  # somebody removed one, so that `observe` will never list the object
        await client.delete(
            body["apiVersion"], body["kind"], metadata["name"], metadata["namespace"], uid=existing["metadata"]["uid"]
        )
        raise Conflict(f"{body['kind']} {metadata['name']} had lost its labels; it was deleted and is created again")
    # else created since `observe`, by ourselves or by another operator


async def _apply(client: Client, body: JsonObject) -> None:
    metadata = body["metadata"]
    with contextlib.suppress(NotFound):
        existing = await client.get(body["apiVersion"], body["kind"], metadata["name"], metadata["namespace"])
        # with our labels and without an owner it is ours, and somebody removed the owner
        if _controller(existing) or _labels(existing) != _labels(body):
            _check_owner("apply", body, existing)
    await client.apply(body)


def _check_owner(verb: str, body: JsonObject, existing: JsonObject) -> None:
    """Raise RequestRejected if another owner controls ``existing``, which has the name of ``body``; Conflict if it is
    being deleted or belongs to a former object of the owner's name."""
    metadata = body["metadata"]
    wanted, current = _controller(body), _controller(existing)
    if wanted == current:
        return
    if existing["metadata"].get("deletionTimestamp") or (current.get("kind"), current.get("name")) == (
        wanted.get("kind"),
        wanted.get("name"),
    ):
        raise Conflict(f"{body['kind']} {metadata['name']} of a former object of this name is being deleted")
    raise RequestRejected(
        Request(verb, body["kind"], metadata["namespace"], metadata["name"]),
        409,
        "AlreadyExists",
        f"there is one of this name that does not belong to {wanted.get('name')}",
    )


def _labels(obj: JsonObject) -> list[str | None]:
    """Those by which `observe` lists the children of a model."""
    labels = obj["metadata"].get("labels") or {}
    return [labels.get(name) for name in (MANAGED_BY_LABEL, MODEL_LABEL)]


def _controller(obj: JsonObject) -> JsonObject:
    """kind, name and uid of what controls the object; empty if nothing does."""
    owner = controller(obj)
    return {key: owner.get(key) for key in ("kind", "name", "uid")} if owner is not None else {}


async def _delete(client: Client, cluster: ClusterState, action: Delete) -> None:
    try:
        await client.delete(
            action.api_version,
            action.kind,
            action.name,
            cluster.namespace,
            uid=action.uid,
            propagation=action.propagation,
        )
    except (Conflict, NotFound):
        return  # replaced by another one, or gone


async def _patch_status(client: Client, cluster: ClusterState, action: PatchStatus) -> None:
    before = cluster.model.get("status") or {}
    body = {
        "metadata": {"resourceVersion": action.resource_version},
        "status": merge_patch(before, action.status),
    }
    try:
        await client.patch_status(API_VERSION, "MultiTaskModel", cluster.name, cluster.namespace, body)
    except NotFound as error:
        raise Conflict(f"MultiTaskModel {cluster.name} is gone") from error


async def _patch_finalizers(client: Client, cluster: ClusterState, action: PatchFinalizers) -> None:
    metadata = {"resourceVersion": action.resource_version, "finalizers": list(action.finalizers)}
    try:
        await client.patch(API_VERSION, "MultiTaskModel", cluster.name, cluster.namespace, {"metadata": metadata})
    except NotFound as error:
        raise Conflict(f"MultiTaskModel {cluster.name} is gone") from error


async def _patch_configmap(client: Client, cluster: ClusterState, action: PatchConfigMap) -> None:
    body = {"metadata": {"resourceVersion": action.resource_version}, "data": dict(action.data)}
    with contextlib.suppress(NotFound):  # it was deleted by hand: there is nothing left to remember
        await client.patch("v1", "ConfigMap", action.name, cluster.namespace, body)


async def _patch_route(client: Client, cluster: ClusterState, action: PatchRoute) -> None:
    version, names = action.resource_version, (API_VERSION, "TaskRoute", action.name, cluster.namespace)
    try:
        if action.status is not None:
            body = {"metadata": {"resourceVersion": version}, "status": dict(action.status)}
            written = await client.patch_status(*names, body)
            version = written["metadata"]["resourceVersion"]
        if action.spec is not None:
            await client.patch(*names, {"metadata": {"resourceVersion": version}, "spec": dict(action.spec)})
    except NotFound as error:
        raise Conflict(f"TaskRoute {action.name} is gone") from error


def merge_patch(before: JsonObject, after: JsonObject) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes ``after`` of ``before``: fields that are gone become null."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch


async def _post(client: Client, cluster: ClusterState, action: Event) -> None:
    level = logging.WARNING if action.type == "Warning" else logging.INFO
    logger.log(level, "%s/%s: %s: %s", cluster.namespace, cluster.name, action.reason, action.message)
    try:
        await client.create(event_object(cluster, action, datetime.datetime.now(datetime.UTC)))
    except ClusterError as error:
        logger.warning("%s/%s: Event %s: %s", cluster.namespace, cluster.name, action.reason, error)


def event_object(cluster: ClusterState, event: Event, now: datetime.datetime) -> JsonObject:
    """An Event of events.k8s.io/v1 about the model of ``cluster``; ``now`` in UTC."""
    metadata = cluster.model["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{cluster.name[:200]}.{secrets.token_hex(8)}", "namespace": cluster.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": FIELD_MANAGER,
        "reportingInstance": socket.gethostname()[:128],
        "action": "Reconcile",
        "type": event.type,
        "reason": event.reason,
        "note": cut(event.message, _NOTE),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": "MultiTaskModel",
            "namespace": cluster.namespace,
            "name": cluster.name,
            "uid": metadata.get("uid"),
            "resourceVersion": metadata.get("resourceVersion"),
        },
    }
