"""What is known of one MultiTaskModel: its spec, its Jobs, what they reported, and what is left to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from multitask_api.cluster import GC, REFRESH_ANNOTATION, RESOLVE
from multitask_api.resource import MultiTaskModel
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_operator.objects.names import Owner
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.planner import Plan, PlannerInput, plan
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_reader import read_model
from multitask_operator.reconciler.state.ownership import owned
from multitask_operator.reconciler.state.planner_input import (
    Resolution,
    latest_resolution,
    planner_input,
    resolution,
)
from multitask_operator.reconciler.state.run_record import RunRecord, run_record
from multitask_operator.reconciler.state.stage_job import NO_STAGES, Phase, StageJob, stage_jobs


@dataclass(frozen=True)
class ModelState:
    """Assembled once from a `ClusterState`; the operator decides on it, and ``mtm`` prints from it."""

    cluster: ClusterState
    now: float
    """When the cluster was read, in Unix seconds."""
    model: MultiTaskModel
    run: RunRecord
    """The release that the run goes on with."""
    stage_jobs: tuple[StageJob, ...]
    """Jobs of stages, whatever generation asked for them."""
    resolve_jobs: tuple[StageJob, ...]
    """Jobs that looked at data, base model and storage: of this generation and of earlier ones."""
    resolve_spec: StageJobSpec
    """The resolve Job that this generation needs."""
    resolution: Resolution
    """What the resolve Job of this generation reported."""
    latest_resolution: Resolution
    """That, or as long as it is missing what the last generation's reported: the status goes on showing it."""
    planner_input: PlannerInput
    plan: Plan

    @classmethod
    def of(cls, cluster: ClusterState, now: float) -> ModelState:
        """Assemble it, ``now`` in Unix seconds. Raises InvalidResource for a spec that cannot be run."""
        cluster = owned(cluster)
        model, owner = read_model(cluster), Owner.of(cluster.model)
        resolve_spec = StageJobSpec.of_resolve(owner, cluster.generation, cluster.annotations.get(REFRESH_ANNOTATION))
        run = run_record(cluster, owner, model.spec)
        if run.spec is not None:
            model = model.model_copy(update={"spec": run.spec})
        jobs, resolve_jobs = stage_jobs(cluster, without=NO_STAGES), stage_jobs(cluster, (RESOLVE,))
        current = resolution(next((job for job in resolve_jobs if job.name == resolve_spec.name), None))
        latest = current if current.resolved is not None else latest_resolution(resolve_jobs)
        seen = planner_input(jobs, latest, run.versions)
        return cls(
            cluster=cluster,
            now=now,
            model=model,
            run=run,
            stage_jobs=jobs,
            resolve_jobs=resolve_jobs,
            resolve_spec=resolve_spec,
            resolution=current,
            latest_resolution=latest,
            planner_input=seen,
            plan=plan(model, seen, now),
        )

    @cached_property
    def running_jobs(self) -> tuple[StageJob, ...]:
        """Those of stages that are open and not being deleted; their pods may still wait."""
        return tuple(job for job in self.stage_jobs if job.phase is Phase.RUNNING and not job.is_being_deleted)

    @cached_property
    def verify_jobs(self) -> tuple[StageJob, ...]:
        """Those that verify revisions."""
        return stage_jobs(self.cluster, (VERIFY_REVISION,))

    @cached_property
    def gc_jobs(self) -> tuple[StageJob, ...]:
        """Those that remove what is not used."""
        return stage_jobs(self.cluster, (GC,))

    @property
    def owner(self) -> Owner:
        """What the model's children name as their owner."""
        return Owner.of(self.cluster.model)

    @property
    def is_resolved(self) -> bool:
        """Whether this generation's resolve Job has reported."""
        return self.resolution.resolved is not None

    @property
    def resolve_job(self) -> StageJob | None:
        """This generation's resolve Job."""
        return next((job for job in self.resolve_jobs if job.name == self.resolve_spec.name), None)

    def is_older(self, job: StageJob) -> bool:
        """Whether a Job was created before the resolve Job of this generation, or refresh, was.

        Not by the time alone: a resolve Job that looks again for missing data is a later one of the same name.
        """
        if self.resolve_job is None:
            return False
        if job.resolved_by is not None:
            return job.resolved_by != self.resolve_spec.name
        return job.created_at < self.resolve_job.created_at  # of a release that did not record it
