"""Which Jobs, ConfigMaps and snapshots are deleted: one named predicate for each reason. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.cluster import RUN
from multitask_operator.objects.names import run_name
from multitask_operator.planner import UsedResults
from multitask_operator.reconciler.actions import Delete, delete_all
from multitask_operator.reconciler.children import ChildBuilder
from multitask_operator.reconciler.state.accessors import kind_label, true_condition
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import seconds_until_retry
from multitask_operator.reconciler.state.stage_job import Phase, StageJob
from multitask_operator.reconciler.training.waiting_jobs import outdated_waiting_jobs, surplus_jobs


def obsolete_objects(state: ModelState, children: ChildBuilder | None) -> Iterator[Delete]:
    """Everything that is to be deleted now.

    ``children`` builds Jobs as they would be created now; None: the reader does not know the installation's settings.
    """
    for job in (*surplus_jobs(state), *(outdated_waiting_jobs(state, children) if children is not None else ())):
        # With its ConfigMap: the orders name threads and device, and are of the same settings.
        yield from delete_all(job.job, job.configmap)
    for job in state.stage_jobs:
        if is_unwanted(job, state) or has_no_configmap(job):
            yield from delete_all(job.job)
        # With its ConfigMap: the orders in it may be of an earlier spec.
        if is_to_be_repeated(job, state):
            yield from delete_all(job.job, job.configmap)
        if is_outdated_order(job, state):
            yield from delete_all(job.configmap)
    for job in state.resolve_jobs:
        if is_superseded(job, state) or is_to_be_resolved_again(job, state):
            yield from delete_all(job.job, job.configmap)
    if state.is_resolved:
        used = UsedResults.of(state.plan.graph)
        for job in state.stage_jobs:
            if is_unused(job, used):
                yield from delete_all(job.job, job.configmap)
        yield from _old_snapshots(state)


def is_unwanted(job: StageJob, state: ModelState) -> bool:
    """A running Job of which no open stage is wanted any more; one that is wanted in part runs to its end.

    As long as this generation is not resolved nothing is known to be unwanted, except that suspension stops all.
    """
    if not (state.is_resolved or state.model.spec.suspend):
        return False
    open_stages = set(job.keys) - job.manifests.keys()
    return (
        job.phase is Phase.RUNNING
        and not job.is_being_deleted
        and open_stages <= {stop.key for stop in state.plan.stops}
    )


def has_no_configmap(job: StageJob) -> bool:
    """A Job that has nowhere to report to."""
    return job.phase is Phase.CONFIGMAP_MISSING


def is_to_be_repeated(job: StageJob, state: ModelState) -> bool:
    """A Job that ended without its results and is created again.

    That is so if it completed, because its results are in storage and only the report was lost; and if the user has
    changed the spec since, or asked to have the data read again.
    """
    return job.phase is Phase.FAILED and (job.report_lost or state.is_older(job))


def is_outdated_order(job: StageJob, state: ModelState) -> bool:
    """Orders from before this generation, whose Job is gone."""
    return job.phase is Phase.JOB_MISSING and state.is_older(job)


def is_superseded(job: StageJob, state: ModelState) -> bool:
    """The resolve Job of an earlier generation, once this one is resolved."""
    return job.name != state.resolve_spec.name and state.is_resolved


def is_to_be_resolved_again(job: StageJob, state: ModelState) -> bool:
    """This generation's resolve Job: its report was lost, or the data that it missed is looked for again."""
    if job.name != state.resolve_spec.name:
        return False
    wait = seconds_until_retry(job, state.resolution, state.now)
    report_lost = true_condition(job.job, "Complete") is not None and not state.is_resolved
    return job.configmap is None or report_lost or (wait is not None and wait <= 0)


def is_unused(job: StageJob, used: UsedResults) -> bool:
    """A Job that does not run, of results that the graph does not use and cannot turn out to."""
    return job.phase is not Phase.RUNNING and not any(used.uses(key) for key in job.keys)


def _old_snapshots(state: ModelState) -> Iterator[Delete]:
    """The run snapshots of other generations."""
    current = run_name(state.cluster.name, state.cluster.generation)
    for item in state.cluster.configmaps:
        if kind_label(item) == RUN and item["metadata"]["name"] != current:
            yield from delete_all(item)
