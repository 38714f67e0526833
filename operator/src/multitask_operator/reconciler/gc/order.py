"""What has to stay in storage, what an order of ``mtm gc`` removed, and how it ended. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

from multitask_api.cluster import (
    GC_ANSWER_KEY,
    GC_KEY,
    GC_RESULT_KEY,
    REMOVED_KEY,
    GarbageAnswer,
    GarbageOrder,
    GarbageResult,
    qualified_name,
)
from multitask_api.types import JsonObject
from multitask_operator.objects.volumes import storage_location
from multitask_operator.planner import UsedResults
from multitask_operator.reconciler.actions import PatchConfigMap
from multitask_operator.reconciler.state.accessors import read_record
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import resolution
from multitask_operator.reconciler.state.revision_state import revision_states
from multitask_operator.reconciler.state.stage_job import StageJob

REMOVE, LIST = "remove", "list"
"""The first word of the annotation."""


def garbage_order(state: ModelState, *, dry_run: bool) -> GarbageOrder:
    """What the Job has to do now: what the plan uses stays, and what the recorded revisions serve or may serve
    again."""
    used = UsedResults.of(state.plan.graph)
    return GarbageOrder(
        model=qualified_name(state.owner.namespace, state.owner.name),
        storage=storage_location(state.model.spec),
        keep=tuple(sorted({*map("/".join, used.keys), *_of_revisions(state)})),
        unfinished=tuple(sorted(map("/".join, used.unfinished))),
        keep_stages=tuple(sorted(used.open_stages)),
        dry_run=dry_run,
    )


def covers(order: GarbageOrder | None, wanted: GarbageOrder) -> bool:
    """Whether ``order``, of a Job that may be at work, leaves everything that is to stay by now."""
    return (
        order is not None
        and (order.model, order.storage) == (wanted.model, wanted.storage)
        and set(wanted.keep_stages) <= set(order.keep_stages)
        and all(name in order.keep or name.rpartition("/")[0] in order.keep_stages for name in wanted.keep)
        and set(wanted.unfinished) <= {*order.unfinished, *_below(wanted.unfinished, order.keep_stages)}
    )


def notes_of_removal(state: ModelState) -> Iterator[PatchConfigMap]:
    """Before anything is removed: the lists of what storage holds no longer name it. Otherwise a prompt that a
    ConfigMap gives, and that returns to an earlier text, would lead to a stage that reads a result which is gone."""
    used, kept = UsedResults.of(state.plan.graph), set(_of_revisions(state))
    for job in state.resolve_jobs:
        configmap = job.configmap
        unused = {key for key in resolution(job).manifests if not used.uses(key) and "/".join(key) not in kept}
        if configmap is None or not unused:
            continue
        before = json.loads((configmap.get("data") or {}).get(REMOVED_KEY, "[]"))
        text = json.dumps(sorted({*before, *(digest for _, digest in unused)}), separators=(",", ":"))
        metadata = configmap["metadata"]
        yield PatchConfigMap(metadata["name"], metadata["resourceVersion"], {REMOVED_KEY: text})


def order_of(configmap: JsonObject | None) -> GarbageOrder | None:
    """The order in the ConfigMap of a Job; None if there is none that can be read."""
    return read_record(configmap, GC_KEY, GarbageOrder)


def result_of(configmap: JsonObject | None) -> GarbageResult | None:
    """What the Job's pod reported."""
    return read_record(configmap, GC_RESULT_KEY, GarbageResult)


def answer_of(configmap: JsonObject | None) -> GarbageAnswer | None:
    """How the order ended; None while it is carried out."""
    return read_record(configmap, GC_ANSWER_KEY, GarbageAnswer)


def answer_patch(job: StageJob, answer: GarbageAnswer) -> Iterator[PatchConfigMap]:
    """Writes the answer into the ConfigMap of the Job."""
    if job.configmap is not None:
        metadata = job.configmap["metadata"]
        data = {GC_ANSWER_KEY: answer.model_dump_json(by_alias=True)}
        yield PatchConfigMap(metadata["name"], metadata["resourceVersion"], data)


def _of_revisions(state: ModelState) -> Iterator[str]:
    """``STAGE/DIGEST`` of the exported results that the recorded revisions serve: servers copy them whenever a pod of
    them starts, and a rollback starts servers of a revision that has none."""
    for revision in revision_states(state.cluster).values():
        if revision.record is not None:
            # See `artifact_path`; the files may lie in a folder below it.
            yield "/".join(revision.record.artifact.split("/")[1:3])


def _below(names: tuple[str, ...], stages: tuple[str, ...]) -> Iterator[str]:
    return (name for name in names if name.rpartition("/")[0] in stages)
