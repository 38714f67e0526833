"""ConfigMaps: what a unit is told, and the frozen spec of a run."""

from __future__ import annotations

import json
from typing import Any

from multitask_api.cluster import (
    CLEAN_UP_KEY,
    CONFIGMAP_LIMIT,
    CONFIGMAP_POD_SHARE,
    ORDERS_KEY,
    RESOLVE_KEY,
    RUN,
    SNAPSHOT_KEY,
    CleanUpOrder,
    Orders,
    ResolveOrder,
    qualified_name,
)
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_operator.objects.errors import TooLarge
from multitask_operator.objects.names import Owner, generation_annotation, object_metadata, run_name
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import storage_address

Map = dict[str, Any]

#: Artifacts of a task that one order names besides a baseline for each seed; and bytes of each besides the address of
#: storage and the task's name, which stands there three times: kinds, digests, outputs, punctuation.
_ARTIFACTS = 3
_READ = 130


def stage_configmap(owner: Owner, spec: MultiTaskModelSpec, unit: StageJobSpec) -> Map:
    """The ConfigMap of a unit of stages, without what its pod will add. Raises `TooLarge`."""
    told = Orders(orders=unit.orders).to_json()
    return _configmap(owner, spec, unit, ORDERS_KEY, told, CONFIGMAP_LIMIT - CONFIGMAP_POD_SHARE)


def resolve_configmap(owner: Owner, model: MultiTaskModel, unit: StageJobSpec) -> Map:
    """The ConfigMap of a resolve unit; ``model`` without its status.

    Raises `TooLarge`, also for what would only be too large for a later stage, after others had cost something.
    """
    order = ResolveOrder(model=model.model_copy(update={"status": None}), storage=storage_address(model.spec))
    limit = max(0, CONFIGMAP_LIMIT - CONFIGMAP_POD_SHARE - future_order_bytes(model.spec))
    return _configmap(owner, model.spec, unit, RESOLVE_KEY, order.to_json(), limit)


def future_order_bytes(spec: MultiTaskModelSpec) -> int:
    """Bytes, at most, that a later stage is told beyond the spec: what it reads of each task, with its addresses."""
    storage = len(storage_address(spec).encode())
    each = sum(storage + 3 * len(task.name) + _READ for task in spec.tasks)
    return each * (spec.stages.baseline.seeds + _ARTIFACTS)


def clean_up_configmap(owner: Owner, spec: MultiTaskModelSpec, unit: StageJobSpec) -> Map:
    """The ConfigMap of a clean-up unit."""
    order = CleanUpOrder(model=qualified_name(owner.namespace, owner.name), storage=storage_address(spec))
    return _configmap(owner, spec, unit, CLEAN_UP_KEY, order.to_json(), CONFIGMAP_LIMIT)


def run_snapshot(owner: Owner, spec: MultiTaskModelSpec, generation: int, trainer_image: str) -> Map:
    """What a run of one generation goes on with, whatever becomes of the operator: the spec and the image.

    ``spec`` has prompts and labels in it, also those that come from a ConfigMap. Raises `TooLarge`.
    """
    found = object_metadata(
        owner,
        "v1",
        "ConfigMap",
        run_name(owner.name, generation),
        of=RUN,
        annotations=generation_annotation(generation),
    )
    snapshot = {"generation": generation, "spec": spec.to_json(), "trainerImage": trainer_image}
    found["data"] = {SNAPSHOT_KEY: _text(snapshot, "a run's snapshot", spec, CONFIGMAP_LIMIT)}
    return found


def _configmap(owner: Owner, spec: MultiTaskModelSpec, unit: StageJobSpec, key: str, order: object, limit: int) -> Map:
    found = object_metadata(owner, "v1", "ConfigMap", unit.name, of=unit.kind, annotations=unit.annotations)
    found["data"] = {key: _text(order, f"what {unit.kind} is told", spec, limit)}
    return found


def _text(order: object, what: str, spec: MultiTaskModelSpec, limit: int) -> str:
    text = json.dumps(order, ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode())
    if size > limit:
        labels = sum(len(task.labels) for task in spec.tasks)
        raise TooLarge(
            f"spec.tasks: {what} has {size:,} bytes with {len(spec.tasks)} tasks and {labels} labels, and a ConfigMap"
            f" holds {limit:,} of it; shorten labels and prompts, ask for fewer seeds, or put tasks into a second"
            " MultiTaskModel"
        )
    return text
