"""The objects of a decision, and which of them are missing or differ from what stands. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multitask_api.cluster import CLEAN_UP, KIND_LABEL, RESOLVE, RUN, SNAPSHOT_KEY
from multitask_api.resource import MultiTaskModel
from multitask_operator.objects import configmaps, jobs, rbac
from multitask_operator.objects.actions import Action, Apply, Create
from multitask_operator.objects.names import Owner, run_name
from multitask_operator.objects.pods import PodSettings
from multitask_operator.objects.stage_jobs import StageJobSpec, stage_annotations
from multitask_operator.reconciler.cluster_state import ClusterState, Object
from multitask_operator.reconciler.stage_job import StageJob
from multitask_operator.settings import Settings


@dataclass(frozen=True)
class ChildBuilder:
    """Makes the children of one generation of one model."""

    owner: Owner
    generation: int
    model: MultiTaskModel
    settings: PodSettings

    @classmethod
    def of(
        cls, owner: Owner, generation: int, model: MultiTaskModel, settings: Settings, raw: ClusterState
    ) -> ChildBuilder:
        """With the image that the generation's snapshot froze: an operator's upgrade changes no run that has begun."""
        image = _frozen_image(raw, run_name(owner.name, generation)) or settings.trainer_image
        pods = PodSettings(image, settings.image_pull_policy, settings.gpu_resource)
        return cls(owner, generation, model, pods)

    def unit(self, raw: ClusterState, unit: StageJobSpec) -> Iterator[Action]:
        """What is missing of ConfigMap, Service and Job, in this order: a Job's pods need the others."""
        spec = self.model.spec
        if unit.kind == RESOLVE:
            told = configmaps.resolve_configmap(self.owner, self.model, unit)
        elif unit.kind == CLEAN_UP:
            told = configmaps.clean_up_configmap(self.owner, spec, unit)
        else:
            told = configmaps.stage_configmap(self.owner, spec, unit)
        service = jobs.stage_service(self.owner, spec, unit)
        job = jobs.stage_job(self.owner, spec, unit, self.settings)
        for there, wanted in ((raw.configmaps, told), (raw.services, service), (raw.jobs, job)):
            if wanted is not None and find_existing(there, wanted) is None:
                yield Create(wanted)

    def services(self, raw: ClusterState, running: Sequence[StageJob]) -> Iterator[Action]:
        """Those that somebody deleted: a pod that takes another's place could not find the others.

        No watch tells of Services, and none has to: the end of a pod is what makes one needed, and leads to a look.
        The Job says on how many nodes it runs; the spec may ask for something else by now.
        """
        for unit in running:
            if (unit.job or {}).get("spec", {}).get("completions", 1) > 1:
                annotations = stage_annotations(unit.keys)
                service = jobs.headless_service(self.owner, unit.name, unit.kind, annotations)
                if find_existing(raw.services, service) is None:
                    yield Create(service)

    def snapshot(self, raw: ClusterState) -> Iterator[Action]:
        """The run's snapshot, unless it stands."""
        name = run_name(self.owner.name, self.generation)
        if not any(item["metadata"]["name"] == name for item in raw.configmaps):
            yield Create(configmaps.run_snapshot(self.owner, self.model.spec, self.generation, self.settings.image))

    def old_snapshots(self, raw: ClusterState) -> list[Object]:
        """The snapshots of other generations."""
        name = run_name(self.owner.name, self.generation)
        return [
            item
            for item in raw.configmaps
            if (item["metadata"].get("labels") or {}).get(KIND_LABEL) == RUN and item["metadata"]["name"] != name
        ]

    def access(self, raw: ClusterState, configmaps: Collection[str]) -> Iterator[Action]:
        """ServiceAccount, Role and RoleBinding, each only if it is missing or says something else."""
        account = rbac.service_account(self.owner, self.model.spec)
        if account is not None:
            yield from _differing(raw.service_accounts, account, ())
        yield from _differing(raw.roles, rbac.role(self.owner, configmaps), ("rules",))
        yield from _differing(raw.role_bindings, rbac.role_binding(self.owner, self.model.spec), ("subjects",))


def _differing(there: Sequence[Object], wanted: Mapping[str, Any], fields: Sequence[str]) -> Iterator[Action]:
    found = find_existing(there, wanted)
    # That of a former model of the name is about to go, and nothing would tell of it.
    if (
        found is None
        or _owner(found) != _owner(wanted)
        or any(_plain(found.get(field)) != _plain(wanted[field]) for field in fields)
    ):
        yield Apply(wanted)


def find_existing(there: Sequence[Object], wanted: Mapping[str, Any]) -> Object | None:
    """The object of ``there`` that has the name of ``wanted``."""
    return next((item for item in there if item["metadata"]["name"] == wanted["metadata"]["name"]), None)


def _owner(item: Mapping[str, Any]) -> str | None:
    owners = item["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _plain(value: Any) -> Any:
    """As the API gives it back: an empty list is absent there."""
    return value or None


def _frozen_image(raw: ClusterState, name: str) -> str | None:
    for item in raw.configmaps:
        if item["metadata"]["name"] == name:
            try:
                image = json.loads(item["data"][SNAPSHOT_KEY])["trainerImage"]
            except (KeyError, TypeError, ValueError):  # edited by hand: the next one is made from the settings
                return None
            return image if isinstance(image, str) else None
    return None
