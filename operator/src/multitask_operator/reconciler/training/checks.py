"""What keeps training from going on: one named check for each reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multitask_operator.objects.field_paths import in_users_words
from multitask_operator.objects.pod_layers import user_layers
from multitask_operator.reconciler import blockers, pvcs, refusals, stalls
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.state.accessors import kind_label
from multitask_operator.reconciler.state.cluster_state import RejectedWrite
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.stage_job import Phase, StageJob
from multitask_operator.settings import Settings

Check = Callable[[ModelState, Settings], Blocker | None]


def write_rejected(state: ModelState, settings: Settings) -> Blocker | None:
    """The API server rejected a write of this decision."""
    for rejected in state.cluster.rejected_writes:
        return _field_rejected(state, settings, rejected) or refusals.write_rejected(rejected)
    return None


def _field_rejected(state: ModelState, settings: Settings, rejected: RejectedWrite) -> Blocker | None:
    """The rejected Job has a field from the model, or from the installation, that a pod cannot have."""
    if rejected.kind != "Job" or rejected.body is None:
        return None
    template, kind = rejected.body["spec"]["template"], kind_label(rejected.body)
    layers = user_layers(state.model.spec, kind, settings.stage_pods)
    message = in_users_words(rejected.message, template, layers)
    if message is None:
        return None
    return Blocker(
        refusals.REASON,
        f"the Job of {kind} is refused: {message.rstrip('.')}; correct it, or remove it where it stands",
    )


def claims_blocked(state: ModelState, _: Settings) -> Blocker | None:
    """A claim that the model names cannot serve its Jobs."""
    return pvcs.claims_blocked(state.model.spec, state.cluster.pvcs)


def resolve_failed(state: ModelState, _: Settings) -> Blocker | None:
    """The resolve Job of this generation failed."""
    job = state.resolve_job
    if job is None or state.is_resolved or not job.has_failed:
        return None
    return Blocker("ResolveFailed", failure_of(job).failure.message)


def data_not_found(state: ModelState, _: Settings) -> Blocker | None:
    """The resolve Job of this generation did not find data or the base model."""
    resolved = state.resolution.resolved
    if resolved is None or not resolved.problems:
        return None
    return Blocker("DataNotFound", "; ".join(resolved.problems))


def job_blocked(state: ModelState, settings: Settings) -> Blocker | None:
    """A deleted Job still exists, or the pods of an open Job do not run."""
    for job in _jobs(state):
        blocker = blockers.deletion_stuck(job, state.now)
        if blocker is None and job.is_open:
            blocker = _job_stuck(state, settings, job)
        if blocker is not None:
            return blocker
    return None


def job_stalled(state: ModelState, _: Settings) -> Blocker | None:
    """The pods of an open Job run and get nowhere."""
    return next((blocker for job in _jobs(state) if (blocker := stalls.stalled(job, state.now)) is not None), None)


def job_evicted(state: ModelState, _: Settings) -> Blocker | None:
    """The pods of an open Job were ended from outside again and again."""
    return next((blocker for job in _jobs(state) if (blocker := stalls.evicted(job)) is not None), None)


def job_retrying(state: ModelState, _: Settings) -> Blocker | None:
    """A Job waits for its next attempt. A stage that has failed for good comes first: its reason is the plan's."""
    if state.plan.failed:
        return None
    return next((blocker for job in _jobs(state) if (blocker := blockers.retrying(job)) is not None), None)


#: With one of these no Job is started.
START_CHECKS: Sequence[Check] = (write_rejected, claims_blocked)
#: With one of these a part of the work does not go on; other parts may.
PROGRESS_CHECKS: Sequence[Check] = (
    resolve_failed,
    data_not_found,
    job_stalled,
    job_blocked,
    job_evicted,
    job_retrying,
)


def first_blocker(checks: Sequence[Check], state: ModelState, settings: Settings) -> Blocker | None:
    """What the first check that finds something reports."""
    return next((blocker for check in checks if (blocker := check(state, settings)) is not None), None)


def is_progressing(state: ModelState, settings: Settings) -> bool:
    """Whether a Job is at work and nothing blocks it; one that has reported everything is not at work."""
    at_work = [job for job in state.stage_jobs if job.phase is not Phase.DONE]
    at_work += () if state.is_resolved else state.resolve_jobs
    return any(
        job.job is not None
        and not job.is_finished
        and _job_stuck(state, settings, job) is None
        and stalls.stalled(job, state.now) is None
        for job in at_work
    )


def _job_stuck(state: ModelState, settings: Settings, job: StageJob) -> Blocker | None:
    warnings, grace = state.cluster.warnings, settings.grace_seconds
    stuck = blockers.job_stuck(job, settings.gpu_resource, warnings, state.now, grace)
    return stuck or stalls.not_scheduled(job.pods, state.now)  # an Event says more


def _jobs(state: ModelState) -> tuple[StageJob, ...]:
    return (*state.resolve_jobs, *state.stage_jobs)
