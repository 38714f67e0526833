"""One look at a model, understood as the operator understands it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from multitask_api.cluster import REFRESH_ANNOTATION, RESOLVE
from multitask_api.resource import MultiTaskModel
from multitask_api.resource.status import Condition, MultiTaskModelStatus
from multitask_operator.objects.actions import PatchStatus
from multitask_operator.objects.names import Owner
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.planner import Observed, Plan, plan
from multitask_operator.reconciler import Outcome, reconcile
from multitask_operator.reconciler.cluster_state import ClusterState, Object
from multitask_operator.reconciler.planner_input import observed
from multitask_operator.reconciler.reading import read
from multitask_operator.reconciler.resolution import Resolution, newest, resolution
from multitask_operator.reconciler.stage_job import NO_STAGES, StageJob, stage_jobs
from multitask_operator.reconciler.telling import generation_of
from multitask_operator.settings import Settings

#: What a GPU is called where no Job says so.
_GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class ModelView:
    """``known`` is what the last look at data and storage found; ``current`` whether that was of this generation."""

    raw: ClusterState
    model: MultiTaskModel
    stages: tuple[StageJob, ...]
    known: Resolution
    current: bool
    observed: Observed
    plan: Plan

    @property
    def ran(self) -> dict[str, float]:
        """Stage → seconds, of what this cluster has run since storage was looked at."""
        keys = {(node.name, node.digest) for node in self.plan.graph.nodes}
        found = {key: item for unit in self.stages for key, item in unit.manifests.items()}
        return {key[0]: item.seconds for key, item in found.items() if key in keys and key not in self.known.manifests}


def model_view(raw: ClusterState, now: float) -> ModelView:
    """The graph of ``raw`` with everything that is known, ``now`` in Unix seconds. Raises InvalidResource."""
    assert raw.model is not None
    model, generation = read(raw), generation_of(raw)
    annotations = raw.model["metadata"].get("annotations") or {}
    resolving = StageJobSpec.of_resolve(Owner.of(raw.model), generation or 1, annotations.get(REFRESH_ANNOTATION))
    stages, resolves = stage_jobs(raw, without=NO_STAGES), stage_jobs(raw, (RESOLVE,))
    found = resolution(next((unit for unit in resolves if unit.name == resolving.name), None))
    current = found.resolved is not None
    known = found if current else newest(resolves)
    seen = observed(stages, known, generation=generation, previous=None)
    return ModelView(raw, model, stages, known, current, seen, plan(model, seen, now))


def decided(raw: ClusterState, now: float) -> tuple[Outcome, MultiTaskModelStatus | None]:
    """What an operator that looked now would do, and what it would write into a status that is empty.

    None: nothing, because the model is being deleted. Neither is carried out here.
    """
    bare = replace(raw, model={key: value for key, value in (raw.model or {}).items() if key != "status"})
    # The image enters pods that are not made here.
    settings = Settings(trainer_image="none", gpu_resource=gpu_resource(raw))
    outcome = reconcile(bare, settings, now)
    said = next((each.status for each in outcome.actions if isinstance(each, PatchStatus)), None)
    return outcome, None if said is None else MultiTaskModelStatus.model_validate(said)


def condition_of(status: MultiTaskModelStatus | None, kind: str) -> Condition | None:
    """The condition of that type."""
    return next((item for item in status.conditions if item.type == kind), None) if status else None


def gpu_resource(raw: ClusterState) -> str:
    """What the model's own pods call a GPU: the extended resource that they ask for."""
    for job in raw.jobs:
        for container in job["spec"]["template"]["spec"]["containers"]:
            name = _extended((container.get("resources") or {}).get("limits") or {})
            if name is not None:
                return name
    return _GPU


def _extended(limits: Mapping[str, object]) -> str | None:
    return next((name for name in limits if "/" in name and not name.startswith("hugepages-")), None)


def last_change(raw: ClusterState) -> str:
    """When the model or a child of it was last written, as the API writes times; empty if nothing says so."""
    every: tuple[Object, ...] = (raw.model or {"metadata": {}}, *raw.jobs, *raw.configmaps)
    return max((stamp for item in every for stamp in _stamps(item["metadata"])), default="")


def _stamps(metadata: Mapping[str, object]) -> list[str]:
    fields = metadata.get("managedFields")
    found = [item.get("time") for item in fields] if isinstance(fields, list) else []
    own = (metadata.get(name) for name in ("creationTimestamp", "deletionTimestamp"))
    return [stamp for stamp in (*found, *own) if isinstance(stamp, str)]
