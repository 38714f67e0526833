"""``reconcile(cluster, settings, now)``: what the cluster shows in, everything to do about one model out. Pure.

Nothing is remembered from one call to the next: what was done is what the cluster shows. So a restart, a second
operator or a stale look can at most decide the same thing again, and names that follow from content make that harmless.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from multitask_api.cluster import qualified_name
from multitask_api.errors import InvalidResource, UserError
from multitask_operator.objects.actions import Action, Delete
from multitask_operator.objects.orders import stage_order
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import uri_problems
from multitask_operator.reconciler import blockers, pvcs, telling
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.children import ChildBuilder
from multitask_operator.reconciler.cluster_state import ClusterState
from multitask_operator.reconciler.deletion import clean_up
from multitask_operator.reconciler.finalizers import deletes_of, finalizers, has_finalizer, is_being_deleted
from multitask_operator.reconciler.model_state import ModelState
from multitask_operator.reconciler.outcome import Outcome
from multitask_operator.reconciler.planner_input import failed
from multitask_operator.reconciler.resolution import seconds_until_retry
from multitask_operator.reconciler.retries import blocker_for_retry
from multitask_operator.reconciler.saying import status_update
from multitask_operator.reconciler.scheduling import JobBatch, fit_parallelism, job_batches, stopped, used
from multitask_operator.reconciler.stage_job import Phase, StageJob, condition
from multitask_operator.settings import Settings

#: Seconds until claims and ConfigMaps that others make are looked at again: no watch tells of them.
LOOK_AGAIN = 60.0


def reconcile(cluster: ClusterState, settings: Settings, now: float) -> Outcome:
    """What to do about the model, ``now`` in Unix seconds; of one that is being deleted, only its clean-up."""
    if is_being_deleted(cluster.model):
        return clean_up(cluster, settings, now) if has_finalizer(cluster.model) else Outcome()
    if is_being_deleted(cluster.namespace_object):
        return Outcome()
    patch = finalizers(cluster.model)
    if patch is not None and not cluster.rejected_writes:
        return Outcome((patch,), requeue_after=0.0)  # before anything is written that would have to be removed
    try:
        state = ModelState.of(cluster, now)
    except UserError as error:
        return _invalid_spec(cluster, error, now)
    return decide(state, settings)


def decide(state: ModelState, settings: Settings) -> Outcome:
    """What training needs next. A spec that asks for what cannot be leads to a status that says so."""
    problems = uri_problems(state.model.spec)
    try:
        if problems:
            raise InvalidResource(problems)
        return _Decision.of(state, settings).outcome()
    except UserError as error:
        return _invalid_spec(state.cluster, error, state.now)


def _invalid_spec(cluster: ClusterState, error: UserError, now: float) -> Outcome:
    update = status_update(cluster, telling.rejected(cluster, "InvalidSpec", str(error), now), now)
    return Outcome(update.actions, LOOK_AGAIN if cluster.referenced_configmaps else None)


@dataclass(frozen=True)
class _Decision:
    """Everything that is looked up once, and what follows from it step by step."""

    state: ModelState
    gpu_resource: str
    maker: ChildBuilder

    @classmethod
    def of(cls, state: ModelState, settings: Settings) -> _Decision:
        maker = ChildBuilder.of(state.owner, state.cluster.generation, state.model, settings, state.cluster)
        return cls(state, settings.gpu_resource, maker)

    def outcome(self) -> Outcome:
        """Deletions first, then what is made, then what is said."""
        blocker = self._hard_blocker()
        chosen = [] if blocker is not None or not self.state.is_resolved else self._chosen()
        specs = [self._unit_spec(group) for group in chosen]
        if self._resolve_is_due and blocker is None:
            specs.append(self.state.resolve_spec)
        deletes = list(self._deletes())
        gone = {delete.uid for delete in deletes}
        kept = self._kept_configmaps(gone)
        makes: list[Action] = [*self.maker.snapshot(self.state.cluster)] if specs else []
        makes += self.maker.access(self.state.cluster, kept | {spec.name for spec in specs}) if specs or kept else ()
        for spec in specs:
            makes += self.maker.unit(self.state.cluster, spec)
        makes += self.maker.services(self.state.cluster, self._running(gone))
        starts = [start for start in self.state.plan.starts if any(start.node in group.nodes for group in chosen)]
        status = telling.model_status(
            self.state.model,
            self.state.plan,
            self.state.observed,
            starts,
            blocker or self._soft_blocker(),
            self.state.stage_jobs,
            self.state.now,
            is_progressing=blocker is None and (bool(specs) or self._goes_on()),
        )
        said = status_update(self.state.cluster, status, self.state.now)
        waits = [wait for wait in (said.requeue_after, *self._waits(blocker)) if wait is not None]
        return Outcome((*deletes, *makes, *said.actions), min(waits) if waits else None)

    @property
    def _resolve_is_due(self) -> bool:
        """Nobody looks at this generation yet; a suspended model waits until it may go on."""
        unit = self.state.resolve_job
        missing = unit is None or unit.job is None
        return missing and not self.state.is_resolved and not self.state.model.spec.suspend

    def _chosen(self) -> list[JobBatch]:
        # A Job that ended or lost its ConfigMap has to be gone before one of its name can be made.
        blocking = [job for job in self.state.stage_jobs if job.job is not None and job.phase is not Phase.DONE]
        busy = {key for job in blocking for key in job.keys}
        starts = [start for start in self.state.plan.starts if start.key not in busy]
        spec = self.state.model.spec
        return fit_parallelism(
            spec.training.max_parallel_jobs,
            job_batches(starts, self.state.plan.graph, self.state.stage_jobs),
            self.state.stage_jobs,
            exclusive_claims=lambda kind: pvcs.single_node(spec, kind, self.state.cluster.pvcs),
        )

    def _unit_spec(self, group: JobBatch) -> StageJobSpec:
        owner = self.maker.owner
        name = qualified_name(owner.namespace, owner.name)
        orders = [stage_order(name, self.state.model.spec, self.state.plan.graph, node) for node in group.nodes]
        return StageJobSpec.of_stages(owner, self.maker.generation, orders)

    def _running(self, gone: Collection[str]) -> list[StageJob]:
        """The units that are at work and go on; ``gone``: the uids of what is deleted now."""
        running = [unit for unit in self.state.stage_jobs if unit.phase is Phase.RUNNING and not unit.stopping]
        return [unit for unit in running if unit.job is not None and unit.job["metadata"]["uid"] not in gone]

    # -- what is in the way --------------------------------------------------------------------------------------------

    def _hard_blocker(self) -> Blocker | None:
        """Something that makes starting Jobs pointless."""
        for refusal in self.state.cluster.rejected_writes:
            return blockers.blocker_for_rejected_write(refusal)
        return pvcs.blocker(self.state.model.spec, self.state.cluster.pvcs)

    def _soft_blocker(self) -> Blocker | None:
        """Something that keeps this or that from going on; other work may."""
        unit = self.state.resolve_job
        if unit is not None and not self.state.is_resolved and condition(unit.job, "Failed") is not None:
            return Blocker("ResolveFailed", failed(unit).failure.message)
        if self.state.resolution.resolved is not None and self.state.resolution.resolved.problems:
            return Blocker("DataNotFound", "; ".join(self.state.resolution.resolved.problems))
        for each in (*self.state.resolve_jobs, *self.state.stage_jobs):
            found = blockers.stuck_deletion(each, self.state.now) or (
                self._blocker_of(each) if blockers.is_open(each) else None
            )
            if found is not None:
                return found
        # What failed for good comes before what is tried again.
        again = () if self.state.plan.failed else (*self.state.resolve_jobs, *self.state.stage_jobs)
        return next((found for unit in again if (found := blocker_for_retry(unit)) is not None), None)

    def _goes_on(self) -> bool:
        """Whether any Job is at work that nothing keeps from it; one that has said everything is not."""
        at_work = [unit for unit in self.state.stage_jobs if unit.phase is not Phase.DONE]
        at_work += () if self.state.is_resolved else self.state.resolve_jobs
        return any(unit.job is not None and not unit.ended and self._blocker_of(unit) is None for unit in at_work)

    def _blocker_of(self, unit: StageJob) -> Blocker | None:
        return blockers.blocker_for_job(unit, self.gpu_resource, self.state.cluster.warnings)

    # -- what goes -----------------------------------------------------------------------------------------------------

    def _deletes(self) -> Iterator[Delete]:
        if self.state.is_resolved or self.state.model.spec.suspend:
            for unit in stopped(self.state.plan.stops, self.state.stage_jobs):
                yield from deletes_of(unit.job)
        for unit in self.state.stage_jobs:
            if unit.phase is Phase.CONFIGMAP_MISSING:
                yield from deletes_of(unit.job)
            # Its ConfigMap goes as well: what its pods were told may be of an earlier spec.
            if unit.phase is Phase.FAILED and self._again(unit):
                yield from deletes_of(unit.job, unit.configmap)
            if unit.phase is Phase.JOB_MISSING and self._is_older(unit):
                yield from deletes_of(unit.configmap)
        yield from self._resolves_that_go()
        if self.state.is_resolved:
            yield from self._leftovers()

    def _again(self, unit: StageJob) -> bool:
        """Whether a Job that ended without its results is made anew.

        That is so if it ended well, because then the results lie in storage and only the report of them was lost; and
        if the user has changed the spec since, or asked to look again.
        """
        return unit.report_lost or self._is_older(unit)

    def _is_older(self, unit: StageJob) -> bool:
        """Whether a unit was made before this generation was looked at."""
        current = self.state.resolve_job
        since = current.created_at if current is not None else ""
        return bool(since) and unit.created_at < since

    def _resolves_that_go(self) -> Iterator[Delete]:
        for unit in self.state.resolve_jobs:
            if unit.name != self.state.resolve_spec.name:
                if self.state.is_resolved:
                    yield from deletes_of(unit.job, unit.configmap)
                continue
            wait = seconds_until_retry(unit, self.state.resolution, self.state.now)
            lost = condition(unit.job, "Complete") is not None and not self.state.is_resolved
            if unit.configmap is None or lost or (wait is not None and wait <= 0):
                yield from deletes_of(unit.job, unit.configmap)

    def _leftovers(self) -> Iterator[Delete]:
        """Units of specs that are no more, and their generations' snapshots."""
        for unit in self.state.stage_jobs:
            if unit.phase is not Phase.RUNNING and not used(unit, self.state.plan.graph):
                yield from deletes_of(unit.job, unit.configmap)
        for item in self.maker.old_snapshots(self.state.cluster):
            yield from deletes_of(item)

    def _kept_configmaps(self, gone: Collection[str]) -> set[str]:
        """The unit ConfigMaps that stay: the names a stage pod may write to."""
        every = (unit.configmap for unit in (*self.state.stage_jobs, *self.state.resolve_jobs))
        return {item["metadata"]["name"] for item in every if item is not None and item["metadata"]["uid"] not in gone}

    def _waits(self, blocker: Blocker | None) -> Iterator[float]:
        if blocker is not None:
            yield LOOK_AGAIN
        unit = self.state.resolve_job
        wait = seconds_until_retry(unit, self.state.resolution, self.state.now) if unit is not None else None
        if wait is not None:
            yield max(0.0, wait)
        if self.state.plan.requeue_after is not None:
            yield self.state.plan.requeue_after
        for each in (*self.state.resolve_jobs, *self.state.stage_jobs):
            look = blockers.requeue_after(each, self.gpu_resource, self.state.cluster.warnings, self.state.now)
            if look is not None:
                yield look
