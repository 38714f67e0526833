"""What a reconcile may do to the cluster, as plain data: decided purely, carried out elsewhere, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KubernetesObject = Mapping[str, Any]
"""A Kubernetes object as JSON data, with apiVersion, kind, and metadata.name and .namespace."""


@dataclass(frozen=True)
class Create:
    """Create an object; that it exists already is fine."""

    obj: KubernetesObject


@dataclass(frozen=True)
class Apply:
    """Server-side apply with our field manager and force; decided only where something differs."""

    obj: KubernetesObject


@dataclass(frozen=True)
class Delete:
    """Delete the object with this uid, and no later one of its name; that it is gone or another one is fine."""

    kind: str
    api_version: str
    name: str
    uid: str
    propagation: Literal["Background", "Foreground", "Orphan"] = "Background"


@dataclass(frozen=True)
class PatchStatus:
    """Make ``status`` the MultiTaskModel's, if it still has that resource version; else look again."""

    status: Mapping[str, Any]
    resource_version: str


@dataclass(frozen=True)
class PatchFinalizers:
    """Make ``finalizers`` the MultiTaskModel's, if it still has that resource version; else look again."""

    finalizers: tuple[str, ...]
    resource_version: str


@dataclass(frozen=True)
class Event:
    """An Event about the MultiTaskModel, posted after everything else."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Create | Apply | Delete | PatchStatus | PatchFinalizers | Event
