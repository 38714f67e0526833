"""Which pod's log `mtm logs` prints, and what it says when there is no log. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from shlex import quote

from multitask_api.cluster import RUN
from multitask_api.errors import MultitaskError, UserError
from multitask_api.types import JsonObject
from multitask_operator.commands.cluster.jobs import join_names, stages_of
from multitask_operator.commands.cluster.model_view import gpu_resource
from multitask_operator.commands.progress import describe
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.state.accessors import completion_index, created_at, started_at
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.stage_job import Phase, StageJob, stage_jobs

#: Stage names in a message, at most.
_MAX_NAMES = 20


class NoLog(MultitaskError):
    """There is no pod that has a log."""


class NoSuchStage(UserError):
    """No Job has a stage of that name."""


def select_job(cluster: ClusterState, stage: str | None) -> StageJob:
    """The newest Job for ``stage``: a stage's name, a kind with a single stage, or a Job's name.

    None: the newest that failed, else the newest that is active, else the newest. Raises NoSuchStage.
    """
    jobs = sorted(stage_jobs(cluster, without=(RUN,)), key=lambda job: job.created_at, reverse=True)
    if not jobs:
        raise NoSuchStage(
            f"{cluster.name} has no Jobs yet; `mtm explain {cluster.name} -n {cluster.namespace}` says why"
        )
    if stage is None:
        return next((job for job in jobs if job.phase is Phase.FAILED), None) or next(
            (job for job in jobs if job.is_open), jobs[0]
        )
    exact = [job for job in jobs if stage in (*stages_of(job), job.name)]
    matches = exact or [
        job for job in jobs if stage == job.kind or any(name.startswith(f"{stage}/") for name in stages_of(job))
    ]
    if matches and (exact or len({stages_of(job) for job in matches}) == 1):
        return matches[0]
    names = sorted({name for job in matches or jobs for name in stages_of(job)})
    if matches:
        raise NoSuchStage(f"{stage} has {len(names)} stages; name one of them: {join_names(names, _MAX_NAMES)}")
    near = get_close_matches(stage, names, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"stages with a Job: {join_names(names, _MAX_NAMES)}"
    raise NoSuchStage(f"{cluster.name} has no Job for a stage {stage!r}; {hint}")


def newest_pod(stage_job: StageJob) -> JsonObject | None:
    """The newest pod of the first node, which alone reports; None if there is none."""
    first_node = [pod for pod in stage_job.pods if completion_index(pod) == "0"]
    return max(first_node, key=created_at, default=None)


def not_started(cluster: ClusterState, stage_job: StageJob, pod: JsonObject) -> str | None:
    """Why a pod has no log yet; None if it has started."""
    if pod.get("status", {}).get("phase") != "Pending":
        return None
    blocker = blockers.job_blocked(stage_job, gpu_resource(cluster), cluster.warnings)
    reason = blocker.message if blocker else f"pod {pod['metadata']['name']} is being started"
    return f"there is no log yet: {reason}; next: mtm explain {cluster.name} -n {cluster.namespace}"


def log_unavailable(cluster: ClusterState, stage_job: StageJob) -> str:
    """The message for a Job without a pod: what its ConfigMap still has."""
    missing = f"no pod of {', '.join(stages_of(stage_job)[:3])} is left, so its log is gone"
    if stage_job.job is not None and not stage_job.pods and stage_job.is_open:
        missing = f"Job {stage_job.name} has no pod yet"
    if stage_job.configmap is None:
        next_step = f"mtm explain {cluster.name} -n {cluster.namespace}"
        return f"{missing}; there is no ConfigMap {stage_job.name} either: {next_step}"
    return (
        f"{missing}; ConfigMap {stage_job.name} has {_report_of(stage_job)}:"
        f" kubectl -n {cluster.namespace} get configmap {quote(stage_job.name)} --output yaml"
    )


def _report_of(stage_job: StageJob) -> str:
    """What the pods of a Job reported."""
    parts = []
    if stage_job.keys and stage_job.manifests:
        parts.append(f"the result of {len(stage_job.manifests)} of {len(stage_job.keys)} stages")
    if stage_job.failure is not None:
        parts.append(f"its failure ({stage_job.failure[1].message})")
    if stage_job.progress is not None:
        started = started_at(stage_job.job)
        seconds = max(0.0, stage_job.progress.updated - started) if started is not None else 0.0
        parts.append(f"its last progress ({describe(stage_job.progress.stage, seconds, stage_job.progress)})")
    return " and ".join(parts) or "no report of it"
