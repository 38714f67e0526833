"""Carries out what was decided, in order. Whatever ends it in between, the next look decides anew."""

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
from multitask_operator.cluster.client import FIELD_MANAGER, Client
from multitask_operator.cluster.errors import AlreadyExists, ClusterError, Conflict, NotFound, Request, RequestRejected
from multitask_operator.formatting import cut
from multitask_operator.reconciler.actions import Action, Apply, Create, Delete, Event, PatchFinalizers, PatchStatus
from multitask_operator.reconciler.state.cluster_state import ClusterState, RejectedWrite

logger = logging.getLogger(__name__)

#: Bytes of an Event's note; the server's message about it says characters, and counts bytes.
_NOTE = 1024


@dataclass(frozen=True)
class Applied:
    """How far it went. Nothing that came after a conflict or a refusal was done."""

    requeue_after: bool = False
    """Somebody else wrote in between: what was decided is out of date."""
    rejected_write: RejectedWrite | None = None


async def apply(client: Client, raw: ClusterState, actions: Sequence[Action]) -> Applied:
    """Do ``actions``, which were decided on ``raw``, one after the other.

    Raises ClusterError where the API server could not be asked; an Event that cannot be posted is only logged.
    """
    for action in actions:
        try:
            await _do(client, raw, action)
        except Conflict as error:
            logger.info("%s/%s: looking again: %s", raw.namespace, raw.name, error)
            return Applied(requeue_after=True)
        except RequestRejected as error:
            kind = _kind(action)
            name = error.request.name or raw.name
            return Applied(
                rejected_write=RejectedWrite(error.request.verb, kind, name, error.code, error.reason, error.message)
            )
    return Applied()


def _kind(action: Action) -> str:
    match action:
        case Create() | Apply():
            return str(action.obj["kind"])
        case Delete():
            return action.kind
        case _:
            return "MultiTaskModel"


async def _do(client: Client, raw: ClusterState, action: Action) -> None:
    match action:
        case Create():
            await _create(client, action.obj)
        case Apply():
            await _apply(client, action.obj)
        case Delete():
            await _delete(client, raw, action)
        case PatchStatus():
            await _patch_status(client, raw, action)
        case PatchFinalizers():
            await _patch_finalizers(client, raw, action)
        case Event():
            await _post(client, raw, action)


async def _create(client: Client, body: JsonObject) -> None:
    try:
        await client.create(body)
        return
    except AlreadyExists:
        metadata = body["metadata"]
    try:
        found = await client.get(body["apiVersion"], body["kind"], metadata["name"], metadata["namespace"])
    except NotFound as error:
        raise Conflict(f"{body['kind']} {metadata['name']} has just been deleted") from error
    _check_owner("create", body, found)
    if _labels(found) != _labels(body):  # somebody took one away, and no look will ever show it
        await client.delete(
            body["apiVersion"], body["kind"], metadata["name"], metadata["namespace"], uid=found["metadata"]["uid"]
        )
        raise Conflict(f"{body['kind']} {metadata['name']} had lost its labels; it was deleted, to be made anew")
    # else made since the look, by ourselves or by another operator


async def _apply(client: Client, body: JsonObject) -> None:
    metadata = body["metadata"]
    with contextlib.suppress(NotFound):
        found = await client.get(body["apiVersion"], body["kind"], metadata["name"], metadata["namespace"])
        # one with our labels and without an owner is ours, and somebody took the owner away
        if _controller(found) or _labels(found) != _labels(body):
            _check_owner("apply", body, found)
    await client.apply(body)


def _check_owner(verb: str, body: JsonObject, found: JsonObject) -> None:
    """Raise Refused if ``found``, which has the name of ``body``, is a stranger's; Conflict if it is going."""
    metadata = body["metadata"]
    wanted, there = _controller(body), _controller(found)
    if wanted == there:
        return
    if found["metadata"].get("deletionTimestamp") or (there.get("kind"), there.get("name")) == (
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
    """Those by which a look finds the children of a model."""
    labels = obj["metadata"].get("labels") or {}
    return [labels.get(name) for name in (MANAGED_BY_LABEL, MODEL_LABEL)]


def _controller(obj: JsonObject) -> Mapping[str, Any]:
    """kind, name and uid of what controls the object; empty if nothing does."""
    owners = obj["metadata"].get("ownerReferences") or ()
    for owner in owners:
        if owner.get("controller"):
            return {key: owner.get(key) for key in ("kind", "name", "uid")}
    return {}


async def _delete(client: Client, raw: ClusterState, action: Delete) -> None:
    try:
        await client.delete(
            action.api_version,
            action.kind,
            action.name,
            raw.namespace,
            uid=action.uid,
            propagation=action.propagation,
        )
    except (Conflict, NotFound):
        return  # another one by now, or gone


async def _patch_status(client: Client, raw: ClusterState, action: PatchStatus) -> None:
    before = raw.model.get("status") or {}
    body = {
        "metadata": {"resourceVersion": action.resource_version},
        "status": merge_patch(before, action.status),
    }
    try:
        await client.patch_status(API_VERSION, "MultiTaskModel", raw.name, raw.namespace, body)
    except NotFound as error:
        raise Conflict(f"MultiTaskModel {raw.name} is gone") from error


async def _patch_finalizers(client: Client, raw: ClusterState, action: PatchFinalizers) -> None:
    metadata = {"resourceVersion": action.resource_version, "finalizers": list(action.finalizers)}
    try:
        await client.patch(API_VERSION, "MultiTaskModel", raw.name, raw.namespace, {"metadata": metadata})
    except NotFound as error:
        raise Conflict(f"MultiTaskModel {raw.name} is gone") from error


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
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


async def _post(client: Client, raw: ClusterState, action: Event) -> None:
    try:
        await client.create(event_object(raw, action, datetime.datetime.now(datetime.UTC)))
    except ClusterError as error:
        logger.warning("%s/%s: Event %s: %s", raw.namespace, raw.name, action.reason, error)


def event_object(raw: ClusterState, event: Event, now: datetime.datetime) -> JsonObject:
    """An Event of events.k8s.io/v1 about the model of ``raw``; ``now`` in UTC."""
    metadata = raw.model["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{raw.name[:200]}.{secrets.token_hex(8)}", "namespace": raw.namespace},
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
            "namespace": raw.namespace,
            "name": raw.name,
            "uid": metadata.get("uid"),
            "resourceVersion": metadata.get("resourceVersion"),
        },
    }
