"""ConfigMaps: the orders of a Job, and the frozen spec of a run."""

from __future__ import annotations

import json
from typing import Any

from multitask_api.cluster import (
    CLEAN_UP_KEY,
    CONFIGMAP_LIMIT,
    CONFIGMAP_POD_SHARE,
    GC,
    GC_ANSWER_KEY,
    GC_KEY,
    ORDERS_KEY,
    RESOLVE_KEY,
    RUN,
    SNAPSHOT_KEY,
    CleanUpOrder,
    GarbageAnswer,
    GarbageOrder,
    Orders,
    qualified_name,
)
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.stages.versions import Versions
from multitask_api.types import JsonDict
from multitask_operator.objects.errors import TooLarge
from multitask_operator.objects.names import Owner, generation_annotation, object_metadata, run_name
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import storage_location

#: Artifacts of a task that one order names besides a baseline for each seed; and bytes of each besides the storage URI
#: and the task's name, which it contains three times: kinds, digests, outputs, punctuation.
_ARTIFACTS_PER_TASK = 3
_BYTES_PER_ARTIFACT = 130


def stage_configmap(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec) -> JsonDict:
    """The ConfigMap of a Job that runs stages, without what its pod will add. Raises `TooLarge`."""
    orders = Orders(orders=stage_job.orders).to_json()
    return _configmap(owner, spec, stage_job, ORDERS_KEY, orders, CONFIGMAP_LIMIT - CONFIGMAP_POD_SHARE)


def resolve_configmap(owner: Owner, model: MultiTaskModel, stage_job: StageJobSpec) -> JsonDict:
    """The ConfigMap of a resolve Job; of ``model`` only what it reads goes in.

    A run keeps its image after an edit of its pods, and an older image does not know the newer fields of a spec.
    Raises `TooLarge` also for a model that only a later stage's ConfigMap could not hold: before anything costs.
    """
    # Of training only what the check of the tasks compares with.
    spec = {"base_model": True, "tasks": True, "pretraining": True, "training": {"max_length"}}
    read: dict[str, Any] = {"metadata": True, "spec": spec}
    order = {
        "model": model.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True, include=read),
        "storage": storage_location(model.spec),
    }
    limit = max(0, CONFIGMAP_LIMIT - CONFIGMAP_POD_SHARE - future_order_bytes(model.spec))
    return _configmap(owner, model.spec, stage_job, RESOLVE_KEY, order, limit)


def future_order_bytes(spec: MultiTaskModelSpec) -> int:
    """The most bytes that a later stage's orders have beyond the spec: what it reads of each task, with its URIs."""
    storage = len(storage_location(spec).encode())
    per_artifact = sum(storage + 3 * len(task.name) + _BYTES_PER_ARTIFACT for task in spec.tasks)
    return per_artifact * (spec.stages.baseline.seeds + _ARTIFACTS_PER_TASK)


def clean_up_configmap(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec) -> JsonDict:
    """The ConfigMap of a clean-up Job."""
    order = CleanUpOrder(model=qualified_name(owner.namespace, owner.name), storage=storage_location(spec))
    return _configmap(owner, spec, stage_job, CLEAN_UP_KEY, order.to_json(), CONFIGMAP_LIMIT)


def gc_configmap(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec, order: GarbageOrder) -> JsonDict:
    """The ConfigMap of a Job that removes what is not used. Raises `TooLarge`."""
    return _configmap(owner, spec, stage_job, GC_KEY, order.to_json(), CONFIGMAP_LIMIT - CONFIGMAP_POD_SHARE)


def gc_answer(owner: Owner, stage_job: StageJobSpec, answer: GarbageAnswer) -> JsonDict:
    """The ConfigMap in place of such a Job, for an order that is refused."""
    configmap = object_metadata(owner, "v1", "ConfigMap", stage_job.name, of=GC, annotations=stage_job.annotations)
    configmap["data"] = {GC_ANSWER_KEY: answer.model_dump_json(by_alias=True)}
    return configmap


def run_snapshot(
    owner: Owner,
    spec: MultiTaskModelSpec,
    generation: int,
    trainer_image: str,
    versions: Versions,
    refresh: str | None,
) -> JsonDict:
    """What a run of one generation needs to go on, also after an upgrade of the operator: spec, image and versions.

    ``spec`` contains prompts and labels, also those that come from a ConfigMap; ``refresh`` is the value of the
    annotation that asked for the run. Raises `TooLarge`.
    """
    configmap = object_metadata(
        owner,
        "v1",
        "ConfigMap",
        run_name(owner.name, generation),
        of=RUN,
        annotations=generation_annotation(generation),
    )
    snapshot = {
        "generation": generation,
        "spec": spec.to_json(),
        "trainerImage": trainer_image,
        "versions": dict(versions),
        **({} if refresh is None else {"refresh": refresh}),
    }
    configmap["data"] = {SNAPSHOT_KEY: _text(snapshot, "the snapshot of a run", spec, CONFIGMAP_LIMIT)}
    return configmap


def _configmap(
    owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec, key: str, order: object, limit: int
) -> JsonDict:
    name, kind = stage_job.name, stage_job.kind
    configmap = object_metadata(owner, "v1", "ConfigMap", name, of=kind, annotations=stage_job.annotations)
    configmap["data"] = {key: _text(order, f"the orders of {kind}", spec, limit)}
    return configmap


def _text(document: object, name: str, spec: MultiTaskModelSpec, limit: int) -> str:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode())
    if size > limit:
        labels = sum(len(task.labels) for task in spec.tasks)
        raise TooLarge(
            f"spec.tasks: {name} would have {size:,} bytes with {len(spec.tasks)} tasks and {labels} labels, and a"
            f" ConfigMap has room for {limit:,}; shorten labels and prompts, ask for fewer seeds, or put tasks into a"
            " second MultiTaskModel"
        )
    return text
