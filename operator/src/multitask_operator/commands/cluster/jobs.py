"""A model's Jobs as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multitask_api.cluster import CLEAN_UP, RESOLVE, RUN
from multitask_operator.commands.cluster.model_view import gpu_resource
from multitask_operator.commands.progress import describe
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.state.accessors import started_at, true_condition
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.pods import has_running_pod
from multitask_operator.reconciler.state.stage_job import Phase, StageJob, stage_jobs


@dataclass(frozen=True)
class JobRow:
    """One Job that is open or has failed; ``doing``: its progress, what it waits for, or why it failed."""

    name: str
    stages: tuple[str, ...]
    state: str
    doing: str
    pods: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As data."""
        return {
            "job": self.name,
            "stages": list(self.stages),
            "state": self.state,
            "doing": self.doing,
            "pods": list(self.pods),
        }


def job_rows(cluster: ClusterState, now: float) -> list[JobRow]:
    """Every Job that runs, waits or has failed; ``now`` in Unix seconds."""
    return [_row(unit, cluster, now) for unit in stage_jobs(cluster, without=(RUN,)) if unit.job and not _done(unit)]


def names(stages: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more."""
    shown = ", ".join(stages[:most])
    return shown if len(stages) <= most else f"{shown} and {len(stages) - most} more"


def first_line(text: str) -> str:
    """What a table has room for."""
    return text.partition("\n")[0]


def stages_of(unit: StageJob) -> tuple[str, ...]:
    """The stages of a unit; resolve is its own."""
    return tuple(stage for stage, _ in unit.keys) or (unit.kind,)


def _done(unit: StageJob) -> bool:
    if unit.kind in (RESOLVE, CLEAN_UP):
        return true_condition(unit.job, "Complete") is not None
    return unit.phase is Phase.DONE


def _row(unit: StageJob, cluster: ClusterState, now: float) -> JobRow:
    state, doing = _state(unit, cluster, now)
    pods = tuple(pod["metadata"]["name"] for pod in unit.pods)
    return JobRow(unit.name, stages_of(unit), state, doing, pods)


def _state(unit: StageJob, cluster: ClusterState, now: float) -> tuple[str, str]:
    if unit.is_finished:
        failure = failure_of(unit).failure
        return "failed", f"{failure.stage}: {first_line(failure.message)}"
    blocker = blockers.job_blocked(unit, gpu_resource(cluster), cluster.warnings)
    if unit.is_being_deleted:
        return "stopping", ""
    if blocker is not None:
        return blocker.reason, blocker.message
    said, began = unit.progress, started_at(unit.job)
    if said is None and not has_running_pod(unit.pods):
        return "starting", ""
    stage = said.stage if said is not None else names(stages_of(unit))
    return "running", describe(stage, now - began if began is not None else 0.0, said)
