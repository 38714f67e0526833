"""What one look at the cluster gives: everything that a decision about one MultiTaskModel may use, as it was read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from multitask_api.uris import STORAGE_SCHEMES, scheme_of

Object = Mapping[str, Any]
"""A Kubernetes object as the API gives it (JSON, camelCase); never changed in place."""

_CLAIM = re.compile(r"pvc://([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)(?:/.*)?$")


@dataclass(frozen=True)
class RejectedWrite:
    """A write that the API server refused, and will refuse again: quota, policy, permission, schema."""

    verb: str
    """create, apply, delete or patch."""
    kind: str
    name: str
    code: int
    """The HTTP status: 403 or 422, more rarely 400, 404 (no such kind here) or 413."""
    reason: str
    """As the server gives it: Forbidden, Invalid …"""
    message: str


@dataclass(frozen=True)
class ClusterState:
    """Objects of one MultiTaskModel, read live. Lists hold what carries its label, sorted by name.

    Every object has ``apiVersion`` and ``kind`` filled in, also those that came out of a list.
    """

    namespace: str
    name: str
    model: Object | None = None
    """None: it is not there (deleted, or the key was wrong)."""
    namespace_object: Object | None = None
    """None: it is gone."""
    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    configmaps: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    service_accounts: tuple[Object, ...] = ()
    roles: tuple[Object, ...] = ()
    role_bindings: tuple[Object, ...] = ()
    pvcs: Mapping[str, Object | None] = field(default_factory=dict)
    """Each PersistentVolumeClaim that the spec names (`claim_names`); None: there is none of that name."""
    referenced_configmaps: Mapping[str, Object | None] = field(default_factory=dict)
    """Each ConfigMap that ``promptFrom`` or ``labelsFrom`` names (`reference_names`); None: there is none."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """uid of a Job or pod that should run and shows nothing (`blocking.silent`) → what the newest Event about it says,
    if that is a Warning."""
    sibling_models: tuple[Object, ...] = ()
    """The other MultiTaskModels of the namespace; read only while this one waits for its clean-up."""
    rejected_writes: tuple[RejectedWrite, ...] = ()
    """Empty at first. When the API server refuses a write of the decision, the same state is decided once more with the
    refusal in it, and of that decision only status and Events are written: so that the resource says why it stands."""


def pvc_names(model: Object) -> tuple[str, ...]:
    """The PersistentVolumeClaims that ``model`` names in an address or in a pod template's volumes, sorted."""
    names = set()
    for key, value in _leaves(model.get("spec")):
        match = _CLAIM.match(value)
        if match:
            names.add(match[1])
        elif key == "claimName":
            names.add(value)
    return tuple(sorted(names))


def referenced_configmap_names(model: Object) -> tuple[str, ...]:
    """The ConfigMaps that ``model``'s tasks take prompts and labels from, sorted."""
    tasks = model.get("spec", {}).get("tasks") or ()
    sources = [task.get(key) for task in tasks for key in ("promptFrom", "labelsFrom")]
    return tuple(sorted({source["name"] for source in sources if source and source.get("name")}))


def storage_and_data_uris(model: Object) -> tuple[str, ...]:
    """Every address of a store that ``model``'s spec names, and whatever else in it looks like one."""
    return tuple(value for _, value in _leaves(model.get("spec")) if scheme_of(value) in STORAGE_SCHEMES)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in ``value`` with the key it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for inner_key, inner in value.items():
            yield from _leaves(inner, inner_key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, key)
