"""The objects of one MultiTaskModel as the API server gave them: everything that a decision about it may use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from multitask_api.resource.status import MultiTaskModelStatus
from multitask_api.serving_io.gateway_state import GatewayState
from multitask_api.serving_io.task_names import NameClaim
from multitask_api.types import JsonObject
from multitask_api.uris import STORAGE_SCHEMES, scheme_of

_PVC_URI = re.compile(r"pvc://([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)(?:/.*)?$")


@dataclass(frozen=True)
class RejectedWrite:
    """A write that the API server rejected, and will reject again: quota, policy, permission, schema."""

    verb: str
    """create, apply, delete or patch."""
    kind: str
    name: str
    code: int
    """The HTTP status: 403 or 422, more rarely 400, 404 (no such kind here) or 413."""
    reason: str
    """As the server gives it: Forbidden, Invalid …"""
    message: str
    body: JsonObject | None = None
    """The object that was to be created or applied."""


@dataclass(frozen=True)
class ClusterState:
    """Objects of one MultiTaskModel, read live. Lists hold what carries its label, sorted by name.

    Every object has ``apiVersion`` and ``kind`` filled in, also those that came out of a list.
    """

    namespace: str
    name: str
    model: JsonObject
    namespace_object: JsonObject | None = None
    """None: it is gone, or may not be read."""
    jobs: tuple[JsonObject, ...] = ()
    pods: tuple[JsonObject, ...] = ()
    configmaps: tuple[JsonObject, ...] = ()
    services: tuple[JsonObject, ...] = ()
    service_accounts: tuple[JsonObject, ...] = ()
    roles: tuple[JsonObject, ...] = ()
    role_bindings: tuple[JsonObject, ...] = ()
    deployments: tuple[JsonObject, ...] = ()
    network_policies: tuple[JsonObject, ...] = ()
    disruption_budgets: tuple[JsonObject, ...] = ()
    endpoint_slices: tuple[JsonObject, ...] = ()
    """Of the Services of revisions; they have the labels of their Service."""
    task_routes: tuple[JsonObject, ...] = ()
    """The table of the model, and whatever else has its labels."""
    pvcs: Mapping[str, JsonObject | None] = field(default_factory=dict)
    """Each PersistentVolumeClaim that the spec names (`named_pvc_names`); None: there is none of that name."""
    referenced_configmaps: Mapping[str, JsonObject | None] = field(default_factory=dict)
    """Each ConfigMap that ``promptFrom`` or ``labelsFrom`` names (`referenced_configmap_names`); None: it is
    missing."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """uid of a Job or pod that should run and does not (`blockers.objects_needing_events`) → the message of the newest
    Event about it, if that is a Warning."""
    gateway_states: Mapping[str, GatewayState | None] | None = None
    """Pod of a gateway → what it has counted, None if it does not answer; None instead of the mapping: not known."""
    gateway_pods: frozenset[str] | None = None
    """Names of the pods of gateways that exist, reachable or not; None: not known."""
    rolling_models: frozenset[str] = frozenset()
    """The other models of the installation, NAMESPACE/NAME, that have a rollout under way."""
    name_claims: tuple[NameClaim, ...] = ()
    """The tables of the installation that have a task of the name of one of the model's, its own among them."""
    sibling_models: tuple[JsonObject, ...] = ()
    """The other MultiTaskModels of the namespace; read only while this one waits for its clean-up,
    or has the annotation by which results are removed that it does not use."""
    rejected_writes: tuple[RejectedWrite, ...] = ()
    """Empty at first. When the API server rejects a write of a decision, the same state is decided once more with the
    rejection in it, and of that decision only status, finalizers and Events are written: the resource then says why."""

    @property
    def generation(self) -> int:
        """``metadata.generation``."""
        return int(self.model["metadata"].get("generation", 1))

    @property
    def annotations(self) -> Mapping[str, str]:
        """``metadata.annotations``."""
        return self.model["metadata"].get("annotations") or {}

    @property
    def storage_uri(self) -> str:
        """``spec.storage.uri``, also of a spec that cannot be read; empty without one."""
        storage = (self.model.get("spec") or {}).get("storage") or {}
        return str(storage.get("uri") or "")

    @property
    def task_route(self) -> JsonObject | None:
        """The TaskRoute of the model, which has its name."""
        return next((item for item in self.task_routes if item["metadata"]["name"] == self.name), None)

    @property
    def previous_status(self) -> MultiTaskModelStatus | None:
        """The model's status as it was read; None if somebody else wrote one that does not have its form."""
        try:
            return MultiTaskModelStatus.model_validate(self.model.get("status") or {})
        except ValidationError:
            return None

    def without_status(self) -> ClusterState:
        """The same, of a model that has no status yet."""
        return replace(self, model={key: value for key, value in self.model.items() if key != "status"})


def named_pvc_names(model: JsonObject) -> tuple[str, ...]:
    """The PersistentVolumeClaims that ``model`` names in an address or in a pod template's volumes, sorted."""
    names = set()
    for key, value in _leaves(model.get("spec")):
        match = _PVC_URI.match(value)
        if match:
            names.add(match[1])
        elif key == "claimName":
            names.add(value)
    return tuple(sorted(names))


def referenced_configmap_names(model: JsonObject) -> tuple[str, ...]:
    """The ConfigMaps that ``model``'s tasks take prompts and labels from, sorted."""
    tasks = model.get("spec", {}).get("tasks") or ()
    sources = [task.get(key) for task in tasks for key in ("promptFrom", "labelsFrom")]
    return tuple(sorted({source["name"] for source in sources if source and source.get("name")}))


def storage_and_data_uris(model: JsonObject) -> tuple[str, ...]:
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
