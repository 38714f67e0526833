"""A model's Jobs as the commands print them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multitask_api.cluster import RUN
from multitask_operator.commands.cluster.model_view import gpu_resource
from multitask_operator.commands.progress import describe
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.state.accessors import started_at, true_condition
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.pods import has_running_pod
from multitask_operator.reconciler.state.stage_job import NO_STAGES, Phase, StageJob, stage_jobs


@dataclass(frozen=True)
class JobRow:
    """One Job that is active or has failed; ``detail``: its progress, what it waits for, or why it failed."""

    name: str
    stages: tuple[str, ...]
    state: str
    detail: str
    pods: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As ``mtm status --output json`` prints it."""
        return {
            "job": self.name,
            "stages": list(self.stages),
            "state": self.state,
            "doing": self.detail,
            "pods": list(self.pods),
        }


def job_rows(cluster: ClusterState, now: float) -> list[JobRow]:
    """The Jobs that run, wait or have failed; ``now`` in Unix seconds."""
    return [
        _row(stage_job, cluster, now)
        for stage_job in stage_jobs(cluster, without=(RUN,))
        if stage_job.job and not _done(stage_job)
    ]


def join_names(names: Sequence[str], limit: int = 3) -> str:
    """The first ``limit`` names, and the number of the others."""
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def first_line(text: str) -> str:
    """The first line of ``text``, for a cell of a table."""
    return text.partition("\n")[0]


def stages_of(stage_job: StageJob) -> tuple[str, ...]:
    """The stages that a Job runs; for a Job without stages its kind (``resolve``, ``verify-revision``)."""
    return tuple(stage for stage, _ in stage_job.keys) or (stage_job.kind,)


def _done(stage_job: StageJob) -> bool:
    if stage_job.kind in NO_STAGES:
        return true_condition(stage_job.job, "Complete") is not None
    return stage_job.phase is Phase.DONE


def _row(stage_job: StageJob, cluster: ClusterState, now: float) -> JobRow:
    state, detail = _state(stage_job, cluster, now)
    pods = tuple(pod["metadata"]["name"] for pod in stage_job.pods)
    return JobRow(stage_job.name, stages_of(stage_job), state, detail, pods)


def _state(stage_job: StageJob, cluster: ClusterState, now: float) -> tuple[str, str]:
    if stage_job.is_finished:
        failure = failure_of(stage_job).failure
        return "failed", f"{failure.stage}: {first_line(failure.message)}"
    blocker = blockers.job_blocked(stage_job, gpu_resource(cluster), cluster.warnings)
    if stage_job.is_being_deleted:
        return "stopping", ""
    if blocker is not None:
        return blocker.reason, blocker.message
    progress, started = stage_job.progress, started_at(stage_job.job)
    if progress is None and not has_running_pod(stage_job.pods):
        return "starting", ""
    stage = progress.stage if progress is not None else join_names(stages_of(stage_job))
    return "running", describe(stage, now - started if started is not None else 0.0, progress)
