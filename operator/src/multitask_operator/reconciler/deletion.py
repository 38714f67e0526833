"""A model that is being deleted and does not retain its artifacts: what is left to do before it may go. Pure.

First everything that could still write is stopped, then one Job removes what the runs have written, then the finalizer
goes and the owner references remove the rest. Where a clean-up cannot be, or could take what others use, the finalizer
goes with an Event that says what stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

from multitask_api.cluster import CLEAN_UP, CLEAN_UP_RESULT_KEY, KIND_LABEL, RUN, SNAPSHOT_KEY, CleanUpResult
from multitask_api.errors import UserError
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.uris import overlap
from multitask_operator.formatting import cut, size
from multitask_operator.objects.actions import Action, Event
from multitask_operator.objects.names import Owner, clean_up_name
from multitask_operator.objects.pods import PodSettings
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import pvc_of, uri_problems
from multitask_operator.planner.status import ConditionValue
from multitask_operator.reconciler import blockers, pvcs, retries, telling
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.children import ChildBuilder
from multitask_operator.reconciler.cluster_state import ClusterState, Object, storage_and_data_uris
from multitask_operator.reconciler.finalizers import (
    deletes_of,
    has_finalizer,
    is_being_deleted,
    is_collected,
    retains,
    without_finalizer,
)
from multitask_operator.reconciler.outcome import Outcome
from multitask_operator.reconciler.reading import read
from multitask_operator.reconciler.remediation import append_remediation
from multitask_operator.reconciler.saying import status_update
from multitask_operator.reconciler.stage_job import StageJob, condition, job_of, parse_time, stage_jobs
from multitask_operator.settings import Settings

CLEANING_UP = "CleaningUp"
SKIPPED, FAILED, CLEANED = "CleanUpSkipped", "CleanUpFailed", "CleanedUp"

#: Seconds after which a pod that was to end by now is given up: its node does not answer, and nobody else can tell.
NODE_LOST_SECONDS = 600.0

_FAILURE_BYTES = 600
"""Of an Event, which also says what stays where."""

_TERMINATING = "because it is being terminated"
"""In the API server's words, where the operator may not read the namespace itself."""


def clean_up(raw: ClusterState, settings: Settings, now: float) -> Outcome:
    """What to do about a model that is being deleted and has our finalizer, ``now`` in Unix seconds."""
    assert raw.model is not None
    if any(refusal.kind == "MultiTaskModel" for refusal in raw.rejected_writes):
        return _waits(raw, "", now, blocker=_refused(raw))
    if retains(raw.model):
        return _stop_removing(raw, now) or Outcome((without_finalizer(raw.model),))
    impossible = _impossible(raw)
    skipped = impossible or _shared(raw)
    if skipped is not None:
        stays = Event("Warning", SKIPPED, f"{skipped} What its runs wrote at {_uri(raw)} stays.")
        return (None if impossible else _stop_removing(raw, now)) or _remove_finalizer(raw, stays)
    if is_collected(raw.model):
        return _waits(raw, "The garbage collector is at its children.", now)
    unit = _unit(raw)
    writers = _active_jobs_and_pods(raw, unit, now)
    if writers:
        return _stop(raw, writers, unit, now)
    if unit is not None and (end := _end(raw, unit)) is not None:
        return _remove_finalizer(raw, end)
    return _run(raw, unit, settings, now)


def _unit(raw: ClusterState) -> StageJob | None:
    """The clean-up of this very object: that of a former model of the name may still stand, with what it came to."""
    assert raw.model is not None
    name = clean_up_name(Owner.of(raw.model))
    return next((unit for unit in stage_jobs(raw, (CLEAN_UP,)) if unit.name == name), None)


# -- where there is none -----------------------------------------------------------------------------------------------


def _impossible(raw: ClusterState) -> str | None:
    """Why no Job can remove anything; None if one may."""
    if is_being_deleted(raw.namespace_object) or any(
        _TERMINATING in refusal.message for refusal in raw.rejected_writes
    ):
        return "The namespace is being deleted, and nothing can be started in it."
    claim = pvc_of(_uri(raw))
    blocker = pvcs.unusable(claim, raw.pvcs[claim]) if claim is not None and claim in raw.pvcs else None
    return f"{blocker.message.partition(';')[0]}." if blocker is not None else None


def _shared(raw: ClusterState) -> str | None:
    """Which other model may use what lies there. One that is itself going, and leaves nothing, does not."""
    for other in raw.sibling_models:
        if is_being_deleted(other) and has_finalizer(other) and not retains(other):
            continue
        for address in storage_and_data_uris(other):
            if overlap(address, _uri(raw)):
                return f"MultiTaskModel {other['metadata']['name']!r} uses {address}."
    return None


def _remove_finalizer(raw: ClusterState, event: Event) -> Outcome:
    assert raw.model is not None
    return Outcome((without_finalizer(raw.model), event))


def _stop_removing(raw: ClusterState, now: float) -> Outcome | None:
    """What ends a clean-up that is at work although its files are to stay: once the model has gone, another one of its
    name may come and use them. None if nothing is at work, or it cannot be ended."""
    unit = _unit(raw)
    if unit is None or raw.rejected_writes or blockers.stuck_deletion(unit, now) is not None:
        return None
    jobs = [unit.job] if unit.job is not None and not unit.ended else []
    pods = [pod for pod in unit.pods if _at_work(pod, now)]
    return _stop(raw, [*jobs, *pods], None, now, stays=True) if jobs or pods else None


# -- what could still write --------------------------------------------------------------------------------------------


def _active_jobs_and_pods(raw: ClusterState, unit: StageJob | None, now: float) -> list[Object]:
    """Jobs and pods of stages that have not ended, and Jobs that an older look made beside the clean-up ``unit``."""
    jobs = [
        job
        for job in _stages(raw.jobs)
        if not _has_ended(job) or (unit is not None and _created_at(job) >= unit.created_at)
    ]
    return [*jobs, *(pod for pod in _stages(raw.pods) if job_of(pod) is not None and _at_work(pod, now))]


def _stages(items: Sequence[Object]) -> list[Object]:
    return [item for item in items if (item["metadata"].get("labels") or {}).get(KIND_LABEL) != CLEAN_UP]


def _has_ended(job: Object) -> bool:
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def _at_work(pod: Object, now: float) -> bool:
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not is_over and (not is_being_deleted(pod) or now < _unreachable_at(pod))


def _created_at(item: Object) -> str:
    return str(item["metadata"].get("creationTimestamp", ""))


def _stop(
    raw: ClusterState, writers: Sequence[Object], unit: StageJob | None, now: float, *, stays: bool = False
) -> Outcome:
    """A clean-up that ran beside a writer begins anew behind it."""
    jobs = [item for item in writers if item["kind"] == "Job"]
    again = (unit.job, unit.configmap) if unit is not None else ()
    names = ", ".join(item["metadata"]["name"] for item in writers[:3])
    text = f"Waiting for {len(writers)} Jobs and pods to end: {names}."
    going = [each for each in stage_jobs(raw, without=(RUN,)) if each.stopping]
    held = next((found for each in going if (found := blockers.stuck_deletion(each, now)) is not None), None)
    said = _waits(raw, text, now, blocker=_refused(raw) or held, stays=stays)
    looks = [_unreachable_at(item) - now for item in writers if item["kind"] == "Pod" and is_being_deleted(item)]
    looks += [blockers.EVENT_DELAY] if going and held is None else []
    return Outcome((*deletes_of(*jobs, *again), *said.actions), _earliest(said.requeue_after, *looks))


def _unreachable_at(pod: Object) -> float:
    """The time until which a pod that is going may take, in Unix seconds; its grace is in the time stamp."""
    return parse_time(pod["metadata"]["deletionTimestamp"]) + NODE_LOST_SECONDS


# -- the Job -----------------------------------------------------------------------------------------------------------


def _run(raw: ClusterState, unit: StageJob | None, settings: Settings, now: float) -> Outcome:
    """Make what is missing of the unit, and say how far it is."""
    makes = _made(raw, settings)
    if makes is None:
        text = (
            f"Its spec cannot be read, and there is none of an earlier run. What its runs wrote at {_uri(raw)} stays."
        )
        return _remove_finalizer(raw, Event("Warning", SKIPPED, text))
    blocker = _refused(raw)
    look = None
    gpu = settings.gpu_resource
    if unit is not None:
        blocker = blocker or blockers.stuck_deletion(unit, now) or blockers.blocker_for_job(unit, gpu, raw.warnings)
        blocker = blocker or retries.blocker_for_retry(unit)
        look = blockers.requeue_after(unit, gpu, raw.warnings, now)
    said = _waits(raw, "", now, progress=_progress(unit), blocker=blocker)
    return Outcome((*makes, *said.actions), _earliest(said.requeue_after, look))


def _earliest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


def _made(raw: ClusterState, settings: Settings) -> tuple[Action, ...] | None:
    """From the spec or, if that asks for what cannot be, from the one of the newest run; None: neither can be used."""
    assert raw.model is not None
    owner, generation = Owner.of(raw.model), telling.generation_of(raw) or 1
    unit = StageJobSpec.of_clean_up(owner, generation)
    # The image of today, also behind runs that one of last year made: that one may not know how to clean up.
    pods = PodSettings(settings.trainer_image, settings.image_pull_policy, settings.gpu_resource)
    for model in _models(raw):
        maker = ChildBuilder(owner, generation, model, pods)
        with suppress(UserError):
            return (*maker.access(raw, {unit.name}), *maker.unit(raw, unit))
    return None


def _models(raw: ClusterState) -> Iterator[MultiTaskModel]:
    with suppress(UserError):
        model = read(raw)
        if not uri_problems(model.spec):
            yield model
    metadata = {"name": raw.name, "namespace": raw.namespace}
    for spec in _earlier(raw):
        yield MultiTaskModel.model_validate({"metadata": metadata, "spec": spec})


def _earlier(raw: ClusterState) -> Iterator[MultiTaskModelSpec]:
    """The specs of the runs' snapshots, newest first; one that was edited by hand is none."""
    runs = [item for item in raw.configmaps if (item["metadata"].get("labels") or {}).get(KIND_LABEL) == RUN]
    for item in sorted(runs, key=_created_at, reverse=True):
        with suppress(KeyError, TypeError, ValueError):
            yield MultiTaskModelSpec.model_validate(json.loads(item["data"][SNAPSHOT_KEY])["spec"])


def _end(raw: ClusterState, unit: StageJob) -> Event | None:
    """What its end came to; None while it goes on."""
    cleaned = _cleaned(unit)
    if cleaned is not None:
        what = f"{cleaned.results} results, {cleaned.files} files with {size(cleaned.bytes)}"
        left = f" {cleaned.left} files among them are not its own and stay." if cleaned.left else ""
        return Event("Normal", CLEANED, f"Removed at {_uri(raw)}: {what}.{left}")
    if condition(unit.job, "Failed") is not None:
        text = f"{_failure(unit)}. What its runs wrote at {_uri(raw)} is not all removed; remove it by hand."
        return Event("Warning", FAILED, text)
    if condition(unit.job, "Complete") is not None:  # it ended well, and its report is gone
        return Event("Normal", CLEANED, f"Removed what its runs wrote at {_uri(raw)}.")
    return None


def _failure(unit: StageJob) -> str:
    """In the trainer's words if it had any, else what the cluster says."""
    ended = condition(unit.job, "Failed") or {}
    said = unit.failure[1].message if unit.failure is not None else ended.get("message") or "the clean-up's Job failed"
    return cut(retries.out_of_memory(unit.pods) or str(said), _FAILURE_BYTES)


def _cleaned(unit: StageJob) -> CleanUpResult | None:
    try:
        return CleanUpResult.model_validate_json(((unit.configmap or {}).get("data") or {})[CLEAN_UP_RESULT_KEY])
    except (KeyError, ValueError):
        return None


# -- what is said ------------------------------------------------------------------------------------------------------


def _waits(
    raw: ClusterState,
    text: str,
    now: float,
    *,
    progress: str | None = None,
    blocker: Blocker | None = None,
    stays: bool = False,
) -> Outcome:
    """The status while it waits, and what keeps it from going on; ``stays``: what its runs wrote is to stay."""
    if blocker is not None:
        advice = "; or set spec.storage.retain: true, which keeps what is there and lets the resource go"
        said = ConditionValue("False", blocker.reason, append_remediation(blocker.message, advice))
        return status_update(raw, telling.override_conditions(raw, said, said, "Blocked", progress, now), now)
    wrote = f"what its runs wrote at {_uri(raw)}"
    what = f"Being deleted; {wrote} stays." if stays else f"Being deleted, with {wrote}."
    message = " ".join(each for each in (what, text) if each)
    ready, progressing = (ConditionValue(status, CLEANING_UP, message) for status in ("False", "True"))
    return status_update(raw, telling.override_conditions(raw, ready, progressing, CLEANING_UP, progress, now), now)


def _refused(raw: ClusterState) -> Blocker | None:
    for refusal in raw.rejected_writes:
        return Blocker("WriteRefused", f"{refusal.verb} {refusal.kind} {refusal.name}: {refusal.message}")
    return None


def _progress(unit: StageJob | None) -> str | None:
    said = unit.progress if unit is not None else None
    return f"{said.step}/{said.total} files" if said is not None and said.total else None


def _uri(raw: ClusterState) -> str:
    storage = ((raw.model or {}).get("spec") or {}).get("storage") or {}
    return str(storage.get("uri", ""))
