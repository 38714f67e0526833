"""The objects that a decision needs, and which of them are missing or differ from those that exist. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from multitask_api.cluster import CLEAN_UP, RESOLVE
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.types import JsonObject
from multitask_operator.objects import configmaps, jobs, rbac
from multitask_operator.objects.names import STAGES, Owner, stage_job_name
from multitask_operator.objects.pod_layers import STAGE_KINDS, user_layers
from multitask_operator.objects.pods import PodSettings
from multitask_operator.objects.stage_jobs import StageJobSpec, stage_annotations
from multitask_operator.reconciler.actions import Action, Apply, Create, DryRunCreate
from multitask_operator.reconciler.state.accessors import controller_uid
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.run_record import RunRecord
from multitask_operator.reconciler.state.stage_job import StageJob
from multitask_operator.settings import Settings


def pod_settings(settings: Settings, image: str) -> PodSettings:
    """What the installation sets for every pod of a stage, with this trainer image."""
    return PodSettings(
        image,
        settings.image_pull_policy,
        settings.gpu_resource,
        settings.fixed_user,
        settings.gang_scheduling,
        settings.stage_pods,
    )


@dataclass(frozen=True)
class ChildBuilder:
    """The children of one generation of one model: each method yields those that are missing or differ."""

    owner: Owner
    generation: int
    model: MultiTaskModel
    settings: PodSettings

    @classmethod
    def of(cls, state: ModelState, settings: Settings) -> ChildBuilder:
        """With the run's image: an upgrade of the operator changes no run that has begun."""
        pods = pod_settings(settings, state.run.image or settings.trainer_image)
        return cls(state.owner, state.cluster.generation, state.model, pods)

    def stage_job(self, cluster: ClusterState, stage_job: StageJobSpec) -> Iterator[Action]:
        """What is missing of PodGroup, ConfigMap, Service and Job, in this order: a Job's pods need the others.

        PodGroups are not read: whoever creates a Job creates its PodGroup, and that it exists already is fine.
        """
        spec = self.model.spec
        if stage_job.kind == RESOLVE:
            configmap = configmaps.resolve_configmap(self.owner, self.model, stage_job)
        elif stage_job.kind == CLEAN_UP:
            configmap = configmaps.clean_up_configmap(self.owner, spec, stage_job)
        else:
            configmap = configmaps.stage_configmap(self.owner, spec, stage_job)
        service = jobs.stage_service(self.owner, spec, stage_job)
        job = self.job(stage_job)
        pairs = ((cluster.configmaps, configmap), (cluster.services, service), (cluster.jobs, job))
        group = jobs.pod_group(self.owner, spec, stage_job, self.settings)
        if group is not None and find_existing(cluster.jobs, job) is None:
            yield Create(group)
        for existing, wanted in pairs:
            if wanted is not None and find_existing(existing, wanted) is None:
                yield Create(wanted)

    def pod_template_checks(self) -> Iterator[Action]:
        """Checks of the Jobs whose pods have other additions than those of resolve, the first Job of a generation: an
        error in them must not show up after hours of training."""
        spec, defaults = self.model.spec, self.settings.defaults
        checked = [user_layers(spec, RESOLVE, defaults)]
        for kind in STAGE_KINDS:
            layers = user_layers(spec, kind, defaults)
            if layers not in checked:
                checked.append(layers)
                check = StageJobSpec(stage_job_name(self.owner.name, kind, ["check"]), kind, self.generation)
                yield DryRunCreate(jobs.stage_job(self.owner, spec, check, self.settings))

    def job(self, stage_job: StageJobSpec) -> JsonObject:
        """The Job as it would be created now."""
        return jobs.stage_job(self.owner, self.model.spec, stage_job, self.settings)

    def services(self, cluster: ClusterState, running: Sequence[StageJob]) -> Iterator[Action]:
        """Services of running Jobs that somebody deleted: a replacement pod could not find the others.

        Services are not watched, and need not be: a Service is needed when a pod ends, and that leads to a reconcile.
        The Job gives the number of nodes; the spec may ask for another number by now.
        """
        for stage_job in running:
            if (stage_job.job or {}).get("spec", {}).get("completions", 1) > 1:
                annotations = stage_annotations(stage_job.keys)
                service = jobs.headless_service(self.owner, stage_job.name, stage_job.kind, annotations)
                if find_existing(cluster.services, service) is None:
                    yield Create(service)

    def snapshot(self, cluster: ClusterState, run: RunRecord) -> Iterator[Action]:
        """The run's snapshot, unless it exists and is of ``run``."""
        snapshot = configmaps.run_snapshot(
            self.owner, self.model.spec, self.generation, self.settings.image, run.versions, run.refresh
        )
        if find_existing(cluster.configmaps, snapshot) is None:
            yield Create(snapshot)
        elif not run.is_recorded:
            yield Apply(snapshot)

    def access(self, cluster: ClusterState, configmaps: Collection[str]) -> Iterator[Action]:
        """See `job_access`, for the Jobs of stages."""
        return job_access(self.owner, self.model.spec, cluster, STAGES, configmaps)


def job_access(
    owner: Owner,
    spec: MultiTaskModelSpec,
    cluster: ClusterState,
    kind: str,
    configmaps: Collection[str],
    jobs: Iterable[StageJob] = (),
) -> Iterator[Action]:
    """ServiceAccount, Role and RoleBinding of the Jobs of that kind, each only if it is missing or differs.

    ``jobs``: see `corrected_binding`.
    """
    account = rbac.service_account(owner, spec, kind)
    if account is not None:
        yield from differing(cluster.service_accounts, account, ())
    yield from differing(cluster.roles, rbac.role(owner, kind, configmaps), ("rules",))
    yield from differing(cluster.role_bindings, _binding(owner, spec, kind, jobs), ("subjects",))


def corrected_binding(
    owner: Owner, spec: MultiTaskModelSpec, cluster: ClusterState, kind: str, jobs: Iterable[StageJob]
) -> Iterator[Action]:
    """The RoleBinding, if there is one that gives the Role to another account, as those of an earlier release do.

    The accounts of ``jobs`` that have not ended keep it: they are of an earlier release, or of an earlier spec.
    """
    wanted = _binding(owner, spec, kind, jobs)
    if find_existing(cluster.role_bindings, wanted) is not None:
        yield from differing(cluster.role_bindings, wanted, ("subjects",))


def _binding(owner: Owner, spec: MultiTaskModelSpec, kind: str, jobs: Iterable[StageJob]) -> JsonObject:
    running = {job.job["spec"]["template"]["spec"]["serviceAccountName"] for job in jobs if job.job and job.is_open}
    return rbac.role_binding(owner, kind, {rbac.account_name(owner, spec, kind), *running})


def find_existing(existing: Sequence[JsonObject], wanted: JsonObject) -> JsonObject | None:
    """The existing object that has the name of ``wanted``."""
    return next((item for item in existing if item["metadata"]["name"] == wanted["metadata"]["name"]), None)


def differing(existing: Sequence[JsonObject], wanted: JsonObject, fields: Sequence[str]) -> Iterator[Action]:
    """Apply ``wanted`` if there is no such object, another owner has it, or one of its ``fields`` is another."""
    current = find_existing(existing, wanted)
    if (
        current is None
        # An object of a former model of the name is about to be collected, and no watch would show that.
        or controller_uid(current) != controller_uid(wanted)
        or any(_normalised(current.get(field)) != _normalised(wanted[field]) for field in fields)
    ):
        yield Apply(wanted)


def _normalised(value: Any) -> Any:
    """As the API gives it back: an empty list is absent there."""
    return value or None
