"""Why nothing may be removed now: something is at work, is about to be, or is not known. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from multitask_api.cluster import GC
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_api.types import JsonObject
from multitask_operator.formatting import listed
from multitask_operator.reconciler import pvcs
from multitask_operator.reconciler.gc.order import result_of
from multitask_operator.reconciler.sharing import storage_shared
from multitask_operator.reconciler.state.accessors import is_finished, job_of, kind_label
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import resolution
from multitask_operator.reconciler.state.revision_state import revision_states
from multitask_operator.reconciler.state.stage_job import Phase
from multitask_operator.reconciler.state.writers import is_active

_SUSPEND = "set spec.suspend: true to stop its stages first"


def is_collecting(state: ModelState) -> bool:
    """Whether a Job of ``mtm gc`` is at work: no stage begins meanwhile, it could find what is about to be removed.

    One that has reported is over, also if a sidecar keeps its pod.
    """
    reported = {job.name for job in state.gc_jobs if result_of(job.configmap) is not None}
    jobs = [job for job in state.gc_jobs if job.name not in reported]
    return any(job.is_open and not job.is_being_deleted for job in jobs) or bool(active_pods(state, reported))


def active_pods(state: ModelState, without: Collection[str] = ()) -> list[JsonObject]:
    """The pods of ``mtm gc`` that have not ended, also of Jobs that are gone; not those of the Jobs ``without``."""
    pods = (pod for pod in state.cluster.pods if kind_label(pod) == GC)
    return [pod for pod in pods if job_of(pod) not in (None, *without) and is_active(pod, state.now)]


def refusal(state: ModelState) -> str | None:
    """Why nothing may be removed; None if what is not used is known and stays unused while the Job runs."""
    shared = storage_shared(state.cluster)
    if shared is not None:
        return f"{shared} What it uses of the results there is not known, so nothing is removed."
    blocker = pvcs.claims_blocked(state.model.spec, state.cluster.pvcs)
    if blocker is not None:
        return f"{blocker.message}."
    unreadable = [name for name, revision in revision_states(state.cluster).items() if revision.record is None]
    if unreadable:
        return f"The record of revision {listed(unreadable)} is missing or cannot be read: what it serves is not known."
    active = list(_active(state))
    if active:
        return f"Its Jobs are at work: {listed(active)}. Wait until they have ended, or {_SUSPEND}."
    if not state.is_resolved and not state.model.spec.suspend:
        return "Its spec was edited, and its data has not been looked at since. Try again when its stages have ended."
    if not state.is_resolved and (state.run.image is None or not _was_resolved(state)):
        return "What its spec trains has not been looked at yet: set spec.suspend: false, and try again after that."
    return _unsettled(state)


def _unsettled(state: ModelState) -> str | None:
    """Why it may still change what is used."""
    starting = [start.node.name for start in state.plan.starts]
    if starting:
        return f"Stages are about to run: {listed(starting)}. Wait until they have ended, or {_SUSPEND}."
    if state.plan.graph.open_kinds:
        return "Which tasks are trained together is not known yet. Try again when the stage affinity has ended."
    return None


def _active(state: ModelState) -> Iterator[str]:
    """Jobs and pods that may read or write results, by name. Those that verify a revision read what it serves only,
    and those that have reported all that they were to do are about to end."""
    reported = {job.name for job in state.stage_jobs if job.phase is Phase.DONE}
    reported |= {job.name for job in state.resolve_jobs if resolution(job).resolved is not None}
    cluster, left_out = state.cluster, (GC, VERIFY_REVISION)
    jobs = {job["metadata"]["name"]: job for job in cluster.jobs if not is_finished(job)}
    for name, job in jobs.items():
        if kind_label(job) not in left_out and name not in reported:
            yield name
    for pod in cluster.pods:
        job_name = job_of(pod)
        is_of_stage = job_name is not None and kind_label(pod) not in left_out
        if is_of_stage and job_name not in jobs.keys() | reported and is_active(pod, state.now):
            yield pod["metadata"]["name"]


def _was_resolved(state: ModelState) -> bool:
    """Whether any resolve Job has reported: without one, every data fingerprint and the base's commit are unknown."""
    return bool(state.latest_resolution.resolved and state.latest_resolution.resolved.data)
