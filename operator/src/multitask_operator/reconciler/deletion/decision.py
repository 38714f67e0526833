"""What the deletion of a model needs next, step by step. Pure.

First everything that could still write is stopped, then one Job removes what the runs have written, then the finalizer
is removed and the owner references delete the rest. Where a clean-up is impossible, or could remove what others use,
the finalizer is removed with an Event that says what stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api.cluster import RUN
from multitask_api.types import JsonObject
from multitask_operator.objects.volumes import pvc_of
from multitask_operator.reconciler import blockers, pvcs, refusals
from multitask_operator.reconciler.actions import Event, Result, delete_all, earliest
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.conditions import ConditionValue, status_update, with_conditions
from multitask_operator.reconciler.deletion.clean_up_job import clean_up_creations, clean_up_event, clean_up_job
from multitask_operator.reconciler.finalizers import (
    has_garbage_collector_finalizer,
    retains_artifacts,
    without_finalizer,
)
from multitask_operator.reconciler.sharing import storage_shared
from multitask_operator.reconciler.stalls import not_scheduled, seconds_until_not_scheduled
from multitask_operator.reconciler.state.accessors import is_being_deleted
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.stage_job import StageJob, stage_jobs
from multitask_operator.reconciler.state.writers import active_jobs_and_pods, is_active, node_lost_at
from multitask_operator.settings import Settings

CLEANING_UP = "CleaningUp"
SKIPPED = "CleanUpSkipped"

_TERMINATING = "because it is being terminated"
"""In the API server's words, where the operator may not read the namespace itself."""


def reconcile(cluster: ClusterState, settings: Settings, now: float) -> Result:
    """What to do about a model that is being deleted and has our finalizer, ``now`` in Unix seconds."""
    if any(rejected.kind == "MultiTaskModel" for rejected in cluster.rejected_writes):
        return _waiting(cluster, "", now, blocker=_write_rejected(cluster))
    if retains_artifacts(cluster.model):
        return _stop_clean_up(cluster, now) or Result((without_finalizer(cluster.model),))
    impossible = clean_up_impossible(cluster)
    skipped = impossible or storage_shared(cluster)
    if skipped is not None:
        stopping = None if impossible else _stop_clean_up(cluster, now)
        return stopping or _skip_clean_up(cluster, skipped)
    if has_garbage_collector_finalizer(cluster.model):
        return _waiting(cluster, "Waiting for the garbage collector.", now)
    job = clean_up_job(cluster)
    writers = active_jobs_and_pods(cluster, job, now)
    if writers:
        return _stop(cluster, writers, job, now)
    if job is not None and (event := clean_up_event(job, cluster.storage_uri)) is not None:
        return Result((without_finalizer(cluster.model), event))
    return _run_clean_up(cluster, job, settings, now)


# -- why nothing is removed --------------------------------------------------------------------------------------------


def clean_up_impossible(cluster: ClusterState) -> str | None:
    """Why no Job can remove anything; None if one can."""
    if is_being_deleted(cluster.namespace_object) or any(
        _TERMINATING in rejected.message for rejected in cluster.rejected_writes
    ):
        return "The namespace is being deleted, and nothing can be started in it."
    claim = pvc_of(cluster.storage_uri)
    if claim is None or claim not in cluster.pvcs:
        return None
    blocker = pvcs.claim_unusable(claim, cluster.pvcs[claim])
    return f"{blocker.message.partition(';')[0]}." if blocker is not None else None


# -- steps -------------------------------------------------------------------------------------------------------------


def _skip_clean_up(cluster: ClusterState, reason: str) -> Result:
    message = f"{reason} What its runs wrote at {cluster.storage_uri} stays."
    return Result((without_finalizer(cluster.model), Event("Warning", SKIPPED, message)))


def _stop_clean_up(cluster: ClusterState, now: float) -> Result | None:
    """Ends a clean-up that is at work although its files are to stay: once the model is gone, another one of its name
    may be created and use them. None if nothing is at work, or it cannot be ended."""
    job = clean_up_job(cluster)
    if job is None or cluster.rejected_writes or blockers.deletion_stuck(job, now) is not None:
        return None
    jobs = [job.job] if job.job is not None and not job.is_finished else []
    pods = [pod for pod in job.pods if is_active(pod, now)]
    return _stop(cluster, [*jobs, *pods], None, now, keeps_artifacts=True) if jobs or pods else None


def _stop(
    cluster: ClusterState,
    writers: Sequence[JsonObject],
    clean_up: StageJob | None,
    now: float,
    *,
    keeps_artifacts: bool = False,
) -> Result:
    """Deletes the Jobs and Deployments among ``writers`` and waits; a clean-up that ran beside a writer has to run
    again after it."""
    jobs = [item for item in writers if item["kind"] in ("Job", "Deployment")]
    repeated = (clean_up.job, clean_up.configmap) if clean_up is not None else ()
    names = ", ".join(item["metadata"]["name"] for item in writers[:3])
    kinds = "Deployments, Jobs and pods" if cluster.deployments else "Jobs and pods"
    message = f"Waiting for {len(writers)} {kinds} to end: {names}."
    deleted = [job for job in stage_jobs(cluster, without=(RUN,)) if job.is_being_deleted]
    stuck = next((blocker for job in deleted if (blocker := blockers.deletion_stuck(job, now)) is not None), None)
    blocker = _write_rejected(cluster) or stuck
    status = _waiting(cluster, message, now, blocker=blocker, keeps_artifacts=keeps_artifacts)
    waits = [node_lost_at(item) - now for item in writers if item["kind"] == "Pod" and is_being_deleted(item)]
    waits += [blockers.DELETION_GRACE_SECONDS] if deleted and stuck is None else []
    return Result((*delete_all(*jobs, *repeated), *status.actions), earliest(status.requeue_after, *waits))


def _run_clean_up(cluster: ClusterState, job: StageJob | None, settings: Settings, now: float) -> Result:
    """Creates what is missing of the Job, and shows its progress."""
    creations = clean_up_creations(cluster, settings)
    if creations is None:
        return _skip_clean_up(cluster, "Its spec cannot be read, and no earlier run left one.")
    blocker = _write_rejected(cluster)
    wait = None
    if job is not None:
        gpu_resource, warnings, grace = settings.gpu_resource, cluster.warnings, settings.grace_seconds
        blocker = (
            blocker
            or blockers.deletion_stuck(job, now)
            or blockers.job_stuck(job, gpu_resource, warnings, now, grace)
            or not_scheduled(job.pods, now)
            or blockers.retrying(job)
        )
        wait = earliest(
            blockers.requeue_after(job, gpu_resource, warnings, now, grace), seconds_until_not_scheduled(job.pods, now)
        )
    status = _waiting(cluster, "", now, progress=_progress(job), blocker=blocker)
    return Result((*creations, *status.actions), earliest(status.requeue_after, wait))


# -- status ------------------------------------------------------------------------------------------------------------


def _waiting(
    cluster: ClusterState,
    message: str,
    now: float,
    *,
    progress: str | None = None,
    blocker: Blocker | None = None,
    keeps_artifacts: bool = False,
) -> Result:
    """The status as long as the model waits, with what blocks its deletion."""
    if blocker is not None:
        advice = "; or set spec.storage.retain: true, which keeps what is stored and lets the resource be deleted"
        value = ConditionValue("False", blocker.reason, blockers.append_advice(blocker.message, advice))
        return status_update(cluster, with_conditions(cluster, value, value, "Blocked", progress, now), now)
    artifacts = f"what its runs wrote at {cluster.storage_uri}"
    intent = f"Being deleted; {artifacts} stays." if keeps_artifacts else f"Being deleted, with {artifacts}."
    text = " ".join(part for part in (intent, message) if part)
    ready, progressing = (ConditionValue(status, CLEANING_UP, text) for status in ("False", "True"))
    return status_update(cluster, with_conditions(cluster, ready, progressing, CLEANING_UP, progress, now), now)


def _write_rejected(cluster: ClusterState) -> Blocker | None:
    return next((refusals.write_rejected(rejected) for rejected in cluster.rejected_writes), None)


def _progress(job: StageJob | None) -> str | None:
    progress = job.progress if job is not None else None
    return f"{progress.step}/{progress.total} files" if progress is not None and progress.total else None
