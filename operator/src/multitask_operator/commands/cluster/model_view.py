"""What several commands read from a model's state. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from multitask_api.resource.status import Condition, MultiTaskModelStatus
from multitask_api.types import JsonObject
from multitask_operator.reconciler import Result
from multitask_operator.reconciler.actions import PatchStatus
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.settings import Settings

#: The name of the GPU resource if no Job asks for one.
_DEFAULT_GPU = "nvidia.com/gpu"


class ReaderSettings(Settings):
    """Those of somebody who cannot see the installation's."""

    @property
    def are_known(self) -> bool:
        return False


def reader_settings(cluster: ClusterState) -> Settings:
    """Settings for a decision that is only read. The trainer image is left open: no message contains it. Who
    asks wants to know why nothing runs at this moment: there is no grace."""
    return ReaderSettings(trainer_image="none", gpu_resource=gpu_resource(cluster), grace_seconds=0)


def status_of(result: Result) -> MultiTaskModelStatus | None:
    """The status that the operator would write; None if it writes none."""
    status = next((action.status for action in result.actions if isinstance(action, PatchStatus)), None)
    return None if status is None else MultiTaskModelStatus.model_validate(status)


def condition_of(status: MultiTaskModelStatus | None, condition_type: str) -> Condition | None:
    """The condition of that type; None if there is none."""
    return next((item for item in status.conditions if item.type == condition_type), None) if status else None


def seconds_of_stages(state: ModelState) -> dict[str, float]:
    """Stage → seconds, of the stages that this cluster has run since the resolve Job read the storage."""
    wanted = {(node.name, node.digest) for node in state.plan.graph.nodes}
    stored = state.latest_resolution.manifests
    manifests = {key: manifest for job in state.stage_jobs for key, manifest in job.manifests.items()}
    return {key[0]: item.seconds for key, item in manifests.items() if key in wanted and key not in stored}


def gpu_resource(cluster: ClusterState) -> str:
    """The name of the GPU resource: the extended resource that the model's Jobs ask for."""
    for job in cluster.jobs:
        for container in job["spec"]["template"]["spec"]["containers"]:
            name = _extended((container.get("resources") or {}).get("limits") or {})
            if name is not None:
                return name
    return _DEFAULT_GPU


def _extended(limits: Mapping[str, object]) -> str | None:
    return next((name for name in limits if "/" in name and not name.startswith("hugepages-")), None)


def last_change(cluster: ClusterState) -> str:
    """When the model or a child of it was last written, as an API timestamp; empty if that is unknown."""
    objects: tuple[JsonObject, ...] = (cluster.model, *cluster.jobs, *cluster.configmaps)
    return max((timestamp for item in objects for timestamp in _timestamps(item["metadata"])), default="")


def _timestamps(metadata: Mapping[str, object]) -> list[str]:
    fields = metadata.get("managedFields")
    written = [item.get("time") for item in fields] if isinstance(fields, list) else []
    own = (metadata.get(name) for name in ("creationTimestamp", "deletionTimestamp"))
    return [timestamp for timestamp in (*written, *own) if isinstance(timestamp, str)]
