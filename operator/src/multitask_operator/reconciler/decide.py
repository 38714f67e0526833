"""``reconcile(raw, settings, now)``: one look at the cluster in, everything to do about one model out. Pure.

Nothing is remembered from one call to the next: what was done is what the cluster shows. So a restart, a second
operator or a stale look can at most decide the same thing again, and names that follow from content make that harmless.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from multitask_api.cluster import REFRESH_ANNOTATION, RESOLVE, qualified_name
from multitask_api.errors import InvalidResource, UserError
from multitask_api.resource import MultiTaskModel
from multitask_operator.objects.actions import Action, Delete
from multitask_operator.objects.names import Owner
from multitask_operator.objects.orders import stage_order
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import uri_problems
from multitask_operator.planner import Observed, Plan, plan
from multitask_operator.reconciler import blockers, pvcs, telling
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.children import ChildBuilder
from multitask_operator.reconciler.cluster_state import ClusterState
from multitask_operator.reconciler.deletion import clean_up
from multitask_operator.reconciler.finalizers import deletes_of, finalizers, has_finalizer, is_being_deleted
from multitask_operator.reconciler.outcome import Outcome
from multitask_operator.reconciler.planner_input import failed, observed
from multitask_operator.reconciler.reading import read
from multitask_operator.reconciler.resolution import Resolution, newest, resolution, seconds_until_retry
from multitask_operator.reconciler.retries import blocker_for_retry
from multitask_operator.reconciler.saying import status_update
from multitask_operator.reconciler.scheduling import JobBatch, fit_parallelism, job_batches, stopped, used
from multitask_operator.reconciler.stage_job import NO_STAGES, Phase, StageJob, condition, stage_jobs
from multitask_operator.settings import Settings

#: Seconds until claims and ConfigMaps that others make are looked at again: no watch tells of them.
LOOK_AGAIN = 60.0


def reconcile(raw: ClusterState, settings: Settings, now: float) -> Outcome:
    """What to do about the model, ``now`` in Unix seconds; of one that is going, only what its clean-up takes."""
    if raw.model is None:
        return Outcome()
    if is_being_deleted(raw.model):
        return clean_up(raw, settings, now) if has_finalizer(raw.model) else Outcome()
    if is_being_deleted(raw.namespace_object):
        return Outcome()
    patch = finalizers(raw.model)
    if patch is not None and not raw.rejected_writes:
        return Outcome((patch,), requeue_after=0.0)  # before anything is written that would have to be removed
    try:
        model = read(raw)
        problems = uri_problems(model.spec)
        if problems:
            raise InvalidResource(problems)
        return _Decision.of(raw, model, settings, now).outcome()
    except UserError as error:
        said = status_update(raw, telling.rejected(raw, "InvalidSpec", str(error), now), now)
        return Outcome(said.actions, LOOK_AGAIN if raw.referenced_configmaps else None)


@dataclass(frozen=True)
class _Decision:
    """Everything that is looked up once, and what follows from it step by step."""

    raw: ClusterState
    model: MultiTaskModel
    now: float
    gpu_resource: str
    stages: tuple[StageJob, ...]
    resolves: tuple[StageJob, ...]
    resolving: StageJobSpec
    resolution: Resolution
    observed: Observed
    plan: Plan
    maker: ChildBuilder

    @classmethod
    def of(cls, raw: ClusterState, model: MultiTaskModel, settings: Settings, now: float) -> _Decision:
        assert raw.model is not None
        metadata = raw.model["metadata"]
        owner, generation = Owner.of(raw.model), int(metadata.get("generation", 1))
        resolving = StageJobSpec.of_resolve(
            owner, generation, (metadata.get("annotations") or {}).get(REFRESH_ANNOTATION)
        )
        stages, resolves = stage_jobs(raw, without=NO_STAGES), stage_jobs(raw, (RESOLVE,))
        found = resolution(next((unit for unit in resolves if unit.name == resolving.name), None))
        # While a new generation is looked at, the status goes on showing what the last one came to.
        known = found if found.resolved is not None else newest(resolves)
        seen = observed(stages, known, generation=generation, previous=telling.previous_status(raw))
        return cls(
            raw=raw,
            model=model,
            now=now,
            gpu_resource=settings.gpu_resource,
            stages=stages,
            resolves=resolves,
            resolving=resolving,
            resolution=found,
            observed=seen,
            plan=plan(model, seen, now),
            maker=ChildBuilder.of(owner, generation, model, settings, raw),
        )

    def outcome(self) -> Outcome:
        """Deletions first, then what is made, then what is said."""
        blocker = self._hard_blocker()
        chosen = [] if blocker is not None or not self._resolved else self._chosen()
        specs = [self._unit_spec(group) for group in chosen]
        if self._resolve_is_due and blocker is None:
            specs.append(self.resolving)
        deletes = list(self._deletes())
        gone = {delete.uid for delete in deletes}
        kept = self._kept_configmaps(gone)
        makes: list[Action] = [*self.maker.snapshot(self.raw)] if specs else []
        makes += self.maker.access(self.raw, kept | {spec.name for spec in specs}) if specs or kept else ()
        for spec in specs:
            makes += self.maker.unit(self.raw, spec)
        makes += self.maker.services(self.raw, self._running(gone))
        starts = [start for start in self.plan.starts if any(start.node in group.nodes for group in chosen)]
        status = telling.model_status(
            self.model,
            self.plan,
            self.observed,
            starts,
            blocker or self._soft_blocker(),
            self.stages,
            self.now,
            is_progressing=blocker is None and (bool(specs) or self._goes_on()),
        )
        said = status_update(self.raw, status, self.now)
        waits = [wait for wait in (said.requeue_after, *self._waits(blocker)) if wait is not None]
        return Outcome((*deletes, *makes, *said.actions), min(waits) if waits else None)

    @property
    def _resolved(self) -> bool:
        return self.resolution.resolved is not None

    @property
    def _current(self) -> StageJob | None:
        return next((unit for unit in self.resolves if unit.name == self.resolving.name), None)

    @property
    def _resolve_is_due(self) -> bool:
        """Nobody looks at this generation yet; a suspended model waits until it may go on."""
        unit = self._current
        missing = unit is None or unit.job is None
        return missing and not self._resolved and not self.model.spec.suspend

    def _chosen(self) -> list[JobBatch]:
        # A Job that ended or lost its ConfigMap has to be gone before one of its name can be made.
        busy = {
            key for unit in self.stages if unit.job is not None and unit.phase is not Phase.DONE for key in unit.keys
        }
        starts = [start for start in self.plan.starts if start.key not in busy]
        spec = self.model.spec
        return fit_parallelism(
            spec.training.max_parallel_jobs,
            job_batches(starts, self.plan.graph, self.stages),
            self.stages,
            exclusive_claims=lambda kind: pvcs.single_node(spec, kind, self.raw.pvcs),
        )

    def _unit_spec(self, group: JobBatch) -> StageJobSpec:
        owner = self.maker.owner
        name = qualified_name(owner.namespace, owner.name)
        orders = [stage_order(name, self.model.spec, self.plan.graph, node) for node in group.nodes]
        return StageJobSpec.of_stages(owner, self.maker.generation, orders)

    def _running(self, gone: Collection[str]) -> list[StageJob]:
        """The units that are at work and go on; ``gone``: the uids of what is deleted now."""
        running = [unit for unit in self.stages if unit.phase is Phase.RUNNING and not unit.stopping]
        return [unit for unit in running if unit.job is not None and unit.job["metadata"]["uid"] not in gone]

    # -- what is in the way --------------------------------------------------------------------------------------------

    def _hard_blocker(self) -> Blocker | None:
        """Something that makes starting Jobs pointless."""
        for refusal in self.raw.rejected_writes:
            return blockers.blocker_for_rejected_write(refusal)
        return pvcs.blocker(self.model.spec, self.raw.pvcs)

    def _soft_blocker(self) -> Blocker | None:
        """Something that keeps this or that from going on; other work may."""
        unit = self._current
        if unit is not None and not self._resolved and condition(unit.job, "Failed") is not None:
            return Blocker("ResolveFailed", failed(unit).failure.message)
        if self.resolution.resolved is not None and self.resolution.resolved.problems:
            return Blocker("DataNotFound", "; ".join(self.resolution.resolved.problems))
        for each in (*self.resolves, *self.stages):
            found = blockers.stuck_deletion(each, self.now) or (
                self._blocker_of(each) if blockers.is_open(each) else None
            )
            if found is not None:
                return found
        # What failed for good comes before what is tried again.
        again = () if self.plan.failed else (*self.resolves, *self.stages)
        return next((found for unit in again if (found := blocker_for_retry(unit)) is not None), None)

    def _goes_on(self) -> bool:
        """Whether any Job is at work that nothing keeps from it; one that has said everything is not."""
        at_work = [unit for unit in self.stages if unit.phase is not Phase.DONE]
        at_work += () if self._resolved else self.resolves
        return any(unit.job is not None and not unit.ended and self._blocker_of(unit) is None for unit in at_work)

    def _blocker_of(self, unit: StageJob) -> Blocker | None:
        return blockers.blocker_for_job(unit, self.gpu_resource, self.raw.warnings)

    # -- what goes -----------------------------------------------------------------------------------------------------

    def _deletes(self) -> Iterator[Delete]:
        for unit in stopped(self.plan.stops, self.stages) if self._resolved or self.model.spec.suspend else ():
            yield from deletes_of(unit.job)
        for unit in self.stages:
            if unit.phase is Phase.CONFIGMAP_MISSING:
                yield from deletes_of(unit.job)
            # Its ConfigMap goes as well: what its pods were told may be of an earlier spec.
            if unit.phase is Phase.FAILED and self._again(unit):
                yield from deletes_of(unit.job, unit.configmap)
            if unit.phase is Phase.JOB_MISSING and self._is_older(unit):
                yield from deletes_of(unit.configmap)
        yield from self._resolves_that_go()
        if self._resolved:
            yield from self._leftovers()

    def _again(self, unit: StageJob) -> bool:
        """Whether a Job that ended without its results is made anew.

        That is so if it ended well, because then the results lie in storage and only the report of them was lost; and
        if the user has changed the spec since, or asked to look again.
        """
        return unit.report_lost or self._is_older(unit)

    def _is_older(self, unit: StageJob) -> bool:
        """Whether a unit was made before this generation was looked at."""
        current = self._current
        since = current.created_at if current is not None else ""
        return bool(since) and unit.created_at < since

    def _resolves_that_go(self) -> Iterator[Delete]:
        for unit in self.resolves:
            if unit.name != self.resolving.name:
                if self._resolved:
                    yield from deletes_of(unit.job, unit.configmap)
                continue
            wait = seconds_until_retry(unit, self.resolution, self.now)
            lost = condition(unit.job, "Complete") is not None and not self._resolved
            if unit.configmap is None or lost or (wait is not None and wait <= 0):
                yield from deletes_of(unit.job, unit.configmap)

    def _leftovers(self) -> Iterator[Delete]:
        """Units of specs that are no more, and their generations' snapshots."""
        for unit in self.stages:
            if unit.phase is not Phase.RUNNING and not used(unit, self.plan.graph):
                yield from deletes_of(unit.job, unit.configmap)
        for item in self.maker.old_snapshots(self.raw):
            yield from deletes_of(item)

    def _kept_configmaps(self, gone: Collection[str]) -> set[str]:
        """The unit ConfigMaps that stay: the names a stage pod may write to."""
        every = (unit.configmap for unit in (*self.stages, *self.resolves))
        return {item["metadata"]["name"] for item in every if item is not None and item["metadata"]["uid"] not in gone}

    def _waits(self, blocker: Blocker | None) -> Iterator[float]:
        if blocker is not None:
            yield LOOK_AGAIN
        unit = self._current
        wait = seconds_until_retry(unit, self.resolution, self.now) if unit is not None else None
        if wait is not None:
            yield max(0.0, wait)
        if self.plan.requeue_after is not None:
            yield self.plan.requeue_after
        for each in (*self.resolves, *self.stages):
            look = blockers.requeue_after(each, self.gpu_resource, self.raw.warnings, self.now)
            if look is not None:
                yield look
