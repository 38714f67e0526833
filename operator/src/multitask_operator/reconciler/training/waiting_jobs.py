"""Jobs that wait: an edit of their pods reaches them, because they are replaced. Pure.

A Job cannot be changed. One whose pods run goes on, because an edit of where it runs must not cost what it has done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from multitask_api.cluster import POD_SETTINGS_ANNOTATION
from multitask_api.types import JsonObject
from multitask_operator.objects.errors import ResourcesError
from multitask_operator.objects.jobs import QUEUE_LABEL
from multitask_operator.objects.resources import quantity
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.reconciler.children import ChildBuilder
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.stage_job import Phase, StageJob
from multitask_operator.reconciler.training.scheduling import is_wanted


def outdated_waiting_jobs(state: ModelState, children: ChildBuilder) -> Iterator[StageJob]:
    """Waiting Jobs that would be created otherwise now."""
    for job in (*_waiting_stage_jobs(state), *_waiting_resolve_job(state)):
        stages = max(1, len(job.keys))
        wanted = children.job(StageJobSpec(job.name, job.kind, state.cluster.generation, stages=stages))
        if job.job is not None and has_other_settings(job.job, wanted, is_edited=state.is_older(job)):
            yield job


def has_other_settings(existing: JsonObject, wanted: JsonObject, *, is_edited: bool) -> bool:
    """Whether the Job was created with other pods, another queue or another number of pods than ``wanted`` has.

    Older releases recorded nothing: their Jobs are compared as far as that can be done, and only after an edit.
    """
    given = (existing["metadata"].get("annotations") or {}).get(POD_SETTINGS_ANNOTATION)
    if given is not None:
        return bool(given != wanted["metadata"]["annotations"][POD_SETTINGS_ANNOTATION])
    return is_edited and _comparable(existing) != _comparable(wanted)


def _waiting_stage_jobs(state: ModelState) -> list[StageJob]:
    """Open Jobs of which not all pods run, and whose stages are wanted as they are; none before it is known which."""
    if not state.is_resolved:
        return []
    return [
        job
        for job in state.stage_jobs
        if job.phase is Phase.RUNNING and _waits(job) and is_wanted(job, state.plan.graph)
    ]


def _waiting_resolve_job(state: ModelState) -> list[StageJob]:
    job = state.resolve_job
    return [job] if job is not None and not state.is_resolved and job.is_open and _waits(job) else []


def _waits(job: StageJob) -> bool:
    return not job.is_being_deleted and not job.has_all_pods_running


def surplus_jobs(state: ModelState) -> Iterator[StageJob]:
    """Waiting Jobs for which there is no place since ``maxParallelJobs`` was lowered, the newest ones."""
    waiting = sorted(_waiting_stage_jobs(state), key=lambda job: (job.created_at, job.name))
    places = state.model.spec.training.max_parallel_jobs - (len(state.running_jobs) - len(waiting))
    yield from waiting[max(0, places) :]


def _comparable(job: JsonObject) -> dict[str, Any]:
    """What the API server gives back as it was given, of what an edit can change."""
    spec, template = job["spec"], job["spec"]["template"]["spec"]
    trainer = template["containers"][0]
    resources = trainer.get("resources") or {}
    return {
        "queue": (job["metadata"].get("labels") or {}).get(QUEUE_LABEL),
        "pods": spec.get("completions", 1),
        "resources": {name: _amounts(resources.get(name)) for name in ("requests", "limits")},
        "secrets": trainer.get("envFrom") or [],
        "command": trainer.get("command"),
        "volumes": sorted(volume["name"] for volume in template.get("volumes") or ()),
        **{name: template.get(name) or None for name in ("nodeSelector", "tolerations", "imagePullSecrets")},
        "account": template.get("serviceAccountName"),
    }


def _amounts(given: Any) -> dict[str, Any]:
    """Quantities as numbers: the API server writes 0.5 as 500m."""
    amounts: dict[str, Any] = {}
    for name, value in (given or {}).items():
        try:
            amounts[name] = quantity(value, name)
        except ResourcesError:
            amounts[name] = value
    return amounts
