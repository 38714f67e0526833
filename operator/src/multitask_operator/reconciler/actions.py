"""What a reconcile may do to the cluster, as plain data; `multitask_operator.cluster.apply` carries it out in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.accessors import is_being_deleted

#: Seconds until the next look at a model that cannot start, should its watches not have shown what has changed.
RECHECK_SECONDS = 60.0


@dataclass(frozen=True)
class Create:
    """Create an object; that it exists already is fine."""

    obj: JsonObject
    """With apiVersion, kind, metadata.name and metadata.namespace."""


@dataclass(frozen=True)
class DryRunCreate:
    """Let the API server check an object that is not created yet, as it would be checked then."""

    obj: JsonObject


@dataclass(frozen=True)
class Apply:
    """Server-side apply with our field manager and force; decided only where something differs."""

    obj: JsonObject


@dataclass(frozen=True)
class Delete:
    """Delete the object with this uid, and no later one of its name; that it is gone already is fine."""

    kind: str
    api_version: str
    name: str
    uid: str
    propagation: Literal["Background", "Foreground", "Orphan"] = "Background"


@dataclass(frozen=True)
class PatchStatus:
    """Make ``status`` the MultiTaskModel's, if it still has that resource version; else it is a conflict."""

    status: JsonObject
    resource_version: str


@dataclass(frozen=True)
class PatchFinalizers:
    """Make ``finalizers`` the MultiTaskModel's, if it still has that resource version; else it is a conflict."""

    finalizers: tuple[str, ...]
    resource_version: str


@dataclass(frozen=True)
class PatchConfigMap:
    """Set keys in the ``data`` of a ConfigMap, if it still has that resource version; else it is a conflict."""

    name: str
    resource_version: str
    data: Mapping[str, str]


@dataclass(frozen=True)
class PatchRoute:
    """Change a TaskRoute that still has that resource version; else it is a conflict.

    The status is written first: it says where a rollout stands, and the table follows from it.
    """

    name: str
    resource_version: str
    status: JsonObject | None = None
    """The fields to set. Of the gateways' entries some may be left out, none is changed."""
    spec: JsonObject | None = None
    """The whole table; None: it stays."""


@dataclass(frozen=True)
class Event:
    """An Event about the MultiTaskModel, posted after what it is about."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Create | DryRunCreate | Apply | Delete | PatchStatus | PatchFinalizers | PatchConfigMap | PatchRoute | Event


@dataclass(frozen=True)
class Result:
    """What a reconcile decided."""

    actions: tuple[Action, ...] = ()
    """In the order in which they are carried out."""
    requeue_after: float | None = None
    """Seconds until the next reconcile; None: at the next event or periodic resync."""


def delete_all(*items: JsonObject | None) -> Iterator[Delete]:
    """Deletes those of ``items`` that exist and are not being deleted already."""
    for item in items:
        if item is not None and not is_being_deleted(item):
            metadata = item["metadata"]
            yield Delete(item["kind"], item["apiVersion"], metadata["name"], metadata["uid"])


def earliest(*waits: float | None) -> float | None:
    """The shortest of the waits that are given; None if none is."""
    return min((wait for wait in waits if wait is not None), default=None)
