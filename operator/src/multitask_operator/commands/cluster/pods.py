"""Which pod's log is meant, and what is known where there is none. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from shlex import quote

from multitask_api.cluster import RUN
from multitask_api.errors import MultitaskError, UserError
from multitask_api.types import JsonObject
from multitask_operator.commands.cluster.jobs import stages_of
from multitask_operator.commands.cluster.model_view import gpu_resource
from multitask_operator.commands.progress import describe
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.state.accessors import created_at, node_of, started_at
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.stage_job import Phase, StageJob, stage_jobs

_MOST_NAMES = 20


class NoLog(MultitaskError):
    """There is no pod to ask, or it has not begun."""


class NoSuchStage(UserError):
    """No Job ran, or runs, a stage of that name."""


def select_job(cluster: ClusterState, stage: str | None) -> StageJob:
    """The newest unit of ``stage``: a stage's name, a kind of which there is one stage, or a Job's name.

    None: the one that failed or runs; else the last that was made. Raises NoSuchStage.
    """
    every = sorted(stage_jobs(cluster, without=(RUN,)), key=lambda unit: unit.created_at, reverse=True)
    if not every:
        raise NoSuchStage(
            f"{cluster.name} has no Jobs yet; `mtm explain {cluster.name} -n {cluster.namespace}` says why"
        )
    if stage is None:
        return next((unit for unit in every if unit.phase is Phase.FAILED), None) or next(
            (unit for unit in every if unit.is_open), every[0]
        )
    exact = [unit for unit in every if stage in (*stages_of(unit), unit.name)]
    found = exact or [
        unit for unit in every if stage == unit.kind or any(name.startswith(f"{stage}/") for name in stages_of(unit))
    ]
    if found and (exact or len({stages_of(unit) for unit in found}) == 1):
        return found[0]
    names = sorted({name for unit in found or every for name in stages_of(unit)})
    if found:
        raise NoSuchStage(f"{stage} is {len(names)} stages; name one: {_listed(names)}")
    near = get_close_matches(stage, names, n=3, cutoff=0.5)
    what = f"nearest: {', '.join(near)}" if near else f"stages with a Job: {_listed(names)}"
    raise NoSuchStage(f"no Job of {cluster.name} runs or ran a stage {stage!r}; {what}")


def newest_pod(unit: StageJob) -> JsonObject | None:
    """Of several nodes the first one's: it alone reports."""
    first = [pod for pod in unit.pods if node_of(pod) == "0"]
    return max(first, key=created_at, default=None)


def not_started(cluster: ClusterState, unit: StageJob, pod: JsonObject) -> str | None:
    """Why a pod has no log yet; None if it has begun."""
    if pod.get("status", {}).get("phase") != "Pending":
        return None
    blocker = blockers.job_blocked(unit, gpu_resource(cluster), cluster.warnings)
    why = blocker.message if blocker else f"pod {pod['metadata']['name']} is being started"
    return f"there is no log yet: {why}; next: mtm explain {cluster.name} -n {cluster.namespace}"


def log_unavailable(cluster: ClusterState, unit: StageJob) -> str:
    """That no pod is left, and what still stands."""
    said = _still_said(unit)
    what = f"no pod of {', '.join(stages_of(unit)[:3])} is left, and its log went with it"
    if unit.job is not None and not unit.pods and unit.is_open:
        what = f"Job {unit.name} has no pod yet"
    if unit.configmap is None:
        return f"{what}; so did ConfigMap {unit.name}: mtm explain {cluster.name} -n {cluster.namespace}"
    return (
        f"{what}; ConfigMap {unit.name} {said or 'says nothing of it'}:"
        f" kubectl -n {cluster.namespace} get configmap {quote(unit.name)} --output yaml"
    )


def _still_said(unit: StageJob) -> str:
    parts = []
    if unit.keys and unit.manifests:
        parts.append(f"holds the result of {len(unit.manifests)} of {len(unit.keys)} stages")
    if unit.failure is not None:
        parts.append(f"says why it failed ({unit.failure[1].message})")
    if unit.progress is not None:
        began = started_at(unit.job)
        spent = max(0.0, unit.progress.updated - began) if began is not None else 0.0
        parts.append(f"says how far it came ({describe(unit.progress.stage, spent, unit.progress)})")
    return " and ".join(parts)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
