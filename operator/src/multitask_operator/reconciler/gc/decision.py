"""What an order of ``mtm gc`` needs next. Pure.

The order is an annotation. Each value of it is carried out by one Job, or refused, exactly once: the ConfigMap of the
Job, whose name follows from the value, has the answer. So an operator that was killed goes on where it was, and an
order never waits for a better moment: nobody would expect it to remove anything hours later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from multitask_api.cluster import GC, GC_ANNOTATION, GarbageAnswer, GarbageOrder, GarbageResult
from multitask_api.errors import UserError
from multitask_operator.formatting import cut, size
from multitask_operator.objects import configmaps
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.reconciler.actions import RECHECK_SECONDS, Action, Create, Event, delete_all
from multitask_operator.reconciler.children import (
    ChildBuilder,
    corrected_binding,
    find_existing,
    job_access,
    pod_settings,
)
from multitask_operator.reconciler.contribution import Contribution, StatusPart
from multitask_operator.reconciler.gc.checks import active_pods, refusal
from multitask_operator.reconciler.gc.order import (
    LIST,
    REMOVE,
    answer_of,
    answer_patch,
    covers,
    garbage_order,
    notes_of_removal,
    order_of,
    result_of,
)
from multitask_operator.reconciler.state.accessors import true_condition
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.stage_job import StageJob
from multitask_operator.settings import Settings

COLLECTED, NOT_COLLECTED = "GarbageCollected", "GarbageNotCollected"

_FAILURE_BYTES = 600
_CHANGED = "What the model uses has changed meanwhile; order it again."


def reconcile(state: ModelState, settings: Settings) -> Contribution:
    """What to do about the order in the annotation, and about the Jobs of earlier ones."""
    contribution = _contribution(state, settings)
    if contribution.creations or state.cluster.rejected_writes:
        return contribution
    corrected = corrected_binding(state.owner, state.model.spec, state.cluster, GC, state.gc_jobs)
    return replace(contribution, creations=tuple(corrected))


def _contribution(state: ModelState, settings: Settings) -> Contribution:
    value = state.cluster.annotations.get(GC_ANNOTATION)
    wanted = StageJobSpec.of_gc(state.owner, state.cluster.generation, value) if value is not None else None
    job = next((job for job in state.gc_jobs if wanted is not None and job.name == wanted.name), None)
    earlier = [item for each in state.gc_jobs if each is not job for item in (each.job, each.configmap)]
    deletes = tuple(delete_all(*earlier))
    if value is None or wanted is None or state.cluster.rejected_writes:
        return Contribution(deletes, (), StatusPart({}), None)
    if job is not None and answer_of(job.configmap) is not None:
        return Contribution(deletes, (), StatusPart({}), None)
    if any(item is not None for item in earlier) or active_pods(state, without=(wanted.name,)):
        return Contribution(deletes, (), StatusPart({}), RECHECK_SECONDS)  # two at once could not be told apart
    return _next_step(state, settings, wanted, job, value.split()[:1])


def _next_step(
    state: ModelState, settings: Settings, wanted: StageJobSpec, job: StageJob | None, words: list[str]
) -> Contribution:
    ended = _ended(job) if job is not None else None
    if job is not None and ended is not None:
        return _answered(state, wanted, job, ended)
    if words not in ([REMOVE], [LIST]):
        text = f"{GC_ANNOTATION} says {' '.join(words)!r}; write {REMOVE!r} or {LIST!r}, and the time."
        return _answered(state, wanted, job, GarbageAnswer(phase="Refused", message=text))
    reason = refusal(state)
    order = garbage_order(state, dry_run=words == [LIST])
    if reason is None and job is not None and job.configmap is not None and not covers(order_of(job.configmap), order):
        reason = _CHANGED
    if reason is not None:
        return _answered(state, wanted, job, GarbageAnswer(phase="Refused", message=reason))
    if job is not None and job.configmap is None:  # somebody deleted it: its pod has nowhere to report to
        return Contribution(tuple(delete_all(job.job)), (), StatusPart({}), RECHECK_SECONDS)
    try:
        creations = tuple(_creations(state, settings, wanted, order))
    except UserError as error:  # the installation's additions to pods, for example: no fault of the model's spec
        return _answered(state, wanted, job, GarbageAnswer(phase="Refused", message=cut(str(error), _FAILURE_BYTES)))
    return Contribution((), creations, StatusPart({}), RECHECK_SECONDS)


def _creations(state: ModelState, settings: Settings, wanted: StageJobSpec, order: GarbageOrder) -> Iterator[Action]:
    """What is missing of the Job; the ConfigMap is there before the Job, and the notes before both."""
    cluster, owner, spec = state.cluster, state.owner, state.model.spec
    configmap = configmaps.gc_configmap(owner, spec, wanted, order)
    # The current image, also for runs of older ones: an old image does not know how to do it.
    children = ChildBuilder(owner, cluster.generation, state.model, pod_settings(settings, settings.trainer_image))
    job = children.job(wanted)
    yield from job_access(owner, spec, cluster, GC, [wanted.name], state.gc_jobs)
    if find_existing(cluster.jobs, job) is not None:
        return
    if not order.dry_run:
        yield from notes_of_removal(state)
    if find_existing(cluster.configmaps, configmap) is None:
        yield Create(configmap)
    yield Create(job)


def _ended(job: StageJob) -> GarbageAnswer | None:
    """The answer of a Job that has ended."""
    result = result_of(job.configmap)
    if result is not None:
        return GarbageAnswer(phase="Done", message=_done(result))
    failed = true_condition(job.job, "Failed")
    if failed is not None:
        reported = job.failure[1].message if job.failure is not None else None
        text = str(reported or failed.get("message") or "its Job failed")
        return GarbageAnswer(phase="Failed", message=cut(text, _FAILURE_BYTES))
    if true_condition(job.job, "Complete") is not None:
        return GarbageAnswer(phase="Failed", message="The Job ended, and its report was lost; order it again.")
    return None


def _done(result: GarbageResult) -> str:
    text = f"{result.count} results, {result.files} files with {size(result.bytes)}"
    return f"{text} would be removed." if result.dry_run else f"{text} removed, which nothing used."


def _answered(state: ModelState, wanted: StageJobSpec, job: StageJob | None, answer: GarbageAnswer) -> Contribution:
    """Writes the answer; a Job that is at work is ended, and one that has ended stays for its log."""
    is_done = answer.phase == "Done"
    deletes = tuple(delete_all(job.job)) if job is not None and not job.is_finished and not is_done else ()
    if job is not None and job.configmap is not None:
        creations: tuple[Action, ...] = tuple(answer_patch(job, answer))
    else:
        creations = (Create(configmaps.gc_answer(state.owner, wanted, answer)),)
    order = order_of(job.configmap) if job is not None else None
    if is_done and order is not None and order.dry_run:
        events: tuple[Event, ...] = ()
    else:
        events = (Event("Normal" if is_done else "Warning", COLLECTED if is_done else NOT_COLLECTED, answer.message),)
    return Contribution(deletes, creations, StatusPart({}), None, events)
