"""What training needs next, put together: deletions, creations, and its part of the status. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from multitask_api.cluster import RESOLVE
from multitask_api.errors import InvalidResource
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import uri_problems
from multitask_operator.reconciler import blockers, stalls
from multitask_operator.reconciler.actions import RECHECK_SECONDS, Action, Delete, Event, PatchConfigMap, earliest
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.children import ChildBuilder
from multitask_operator.reconciler.contribution import Contribution
from multitask_operator.reconciler.gc.checks import is_collecting
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import seconds_until_retry
from multitask_operator.reconciler.state.stage_job import StageJob
from multitask_operator.reconciler.training.checks import (
    PROGRESS_CHECKS,
    START_CHECKS,
    first_blocker,
    is_progressing,
)
from multitask_operator.reconciler.training.disruptions import disruptions_to_remember
from multitask_operator.reconciler.training.final_failures import failures_to_remember
from multitask_operator.reconciler.training.held_jobs import end_held_jobs, held_jobs
from multitask_operator.reconciler.training.obsolete import obsolete_objects
from multitask_operator.reconciler.training.scheduling import job_spec, needs_resolve_job, next_batches
from multitask_operator.reconciler.training.status import training_status
from multitask_operator.settings import Settings


def reconcile(state: ModelState, settings: Settings) -> Contribution:
    """What to do about the training of a model that is not being deleted.

    Raises UserError for a spec that cannot be carried out in a cluster.
    """
    problems = uri_problems(state.model.spec)
    if problems:
        raise InvalidResource(problems)
    blocker = first_blocker(START_CHECKS, state, settings)
    batches = next_batches(state) if blocker is None else []
    new_jobs = [job_spec(state, batch) for batch in batches]
    if blocker is None and needs_resolve_job(state):
        new_jobs.append(state.resolve_spec)
    children = ChildBuilder.of(state, settings)
    held = held_jobs(state)
    ending = list(end_held_jobs(held, state))
    obsolete = obsolete_objects(state, children if settings.are_known else None)
    deletes = [*obsolete, *(action for action in ending if isinstance(action, Delete))]
    deleted = {delete.uid for delete in deletes}
    creations = [
        *(action for action in ending if isinstance(action, PatchConfigMap)),
        *failures_to_remember(state, deleted),
        *disruptions_to_remember(state, deleted),
        *_creations(state, children, [] if is_collecting(state) else new_jobs, deleted),
    ]
    status = training_status(
        state,
        settings,
        starts=[start for start in state.plan.starts if any(start.node in batch.nodes for batch in batches)],
        blocker=blocker or first_blocker(PROGRESS_CHECKS, state, settings),
        is_progressing=blocker is None and (bool(new_jobs) or is_progressing(state, settings)),
    )
    waits = (*_waits(state, settings, blocker), *(max(0.0, job.seconds_left(state.now)) for job in held))
    events = tuple(action for action in ending if isinstance(action, Event))
    return Contribution(tuple(deletes), tuple(creations), status, earliest(*waits), events)


def _creations(
    state: ModelState, children: ChildBuilder, new_jobs: Sequence[StageJobSpec], deleted: Collection[str]
) -> Iterator[Action]:
    """``deleted``: the uids of what this decision deletes."""
    configmaps = _kept_configmaps(state, deleted)
    if new_jobs:
        yield from children.snapshot(state.cluster, state.run)
    if new_jobs or configmaps:
        yield from children.access(state.cluster, configmaps | {job.name for job in new_jobs})
    if any(job.kind == RESOLVE for job in new_jobs):
        yield from children.pod_template_checks()
    for job in new_jobs:
        yield from children.stage_job(state.cluster, job)
    yield from children.services(state.cluster, _kept_running_jobs(state, deleted))


def _kept_configmaps(state: ModelState, deleted: Collection[str]) -> set[str]:
    """The names of the Jobs' ConfigMaps that stay: a stage's pod may write to these."""
    configmaps = (stage_job.configmap for stage_job in (*state.stage_jobs, *state.resolve_jobs))
    return {
        item["metadata"]["name"] for item in configmaps if item is not None and item["metadata"]["uid"] not in deleted
    }


def _kept_running_jobs(state: ModelState, deleted: Collection[str]) -> list[StageJob]:
    return [job for job in state.running_jobs if job.job is not None and job.job["metadata"]["uid"] not in deleted]


def _waits(state: ModelState, settings: Settings, blocker: Blocker | None) -> Iterator[float | None]:
    """Seconds until something has to be read again that no watch covers."""
    if blocker is not None:
        yield RECHECK_SECONDS
    if state.resolve_job is not None:
        wait = seconds_until_retry(state.resolve_job, state.resolution, state.now)
        yield None if wait is None else max(0.0, wait)
    for stage_job in (*state.resolve_jobs, *state.stage_jobs):
        yield blockers.requeue_after(
            stage_job, settings.gpu_resource, state.cluster.warnings, state.now, settings.grace_seconds
        )
        yield stalls.requeue_after(stage_job, state.now)
