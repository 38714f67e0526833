"""The order of a stage that runs in a pod."""

from __future__ import annotations

from functools import partial

from multitask_api.cluster import model_folder
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.manifest import StageOrder
from multitask_api.stages import ArtifactKey, Graph, Node, artifact_filename
from multitask_operator.objects.pod_layers import threads
from multitask_operator.objects.resources import gpus
from multitask_operator.objects.volumes import is_local, storage_location, work_folder
from multitask_operator.planner import orders


def stage_order(model: str, spec: MultiTaskModelSpec, graph: Graph, node: Node) -> StageOrder:
    """The order of ``node``, which is READY. Progress and result go through the Job's ConfigMap, not through files.

    ``model``: see `qualified_name`. Scratch and checkpoints have a folder of the model's own, by which a clean-up knows
    them.
    """
    work = f"{model_folder(model)}/{artifact_filename((node.name, node.digest or ''))}"
    return orders.stage_order(
        model,
        graph,
        node,
        partial(artifact_location, spec),
        work=work_folder(spec, work),
        checkpoint=None if is_local(spec) else f"{storage_location(spec)}/work/{work}",
        threads=threads(spec, node.kind),
        device="cuda" if gpus(spec, node.kind) else "cpu",
        gradient_checkpointing=spec.training.gradient_checkpointing,
        sharding=spec.training.sharding,
        report_to=spec.training.report_to,
    )


def artifact_location(spec: MultiTaskModelSpec, key: ArtifactKey) -> str:
    """Where the artifact of a stage is stored, as a pod sees it."""
    return f"{storage_location(spec)}/{artifact_path(key)}"


def artifact_path(key: ArtifactKey) -> str:
    """The folder of the artifact of a stage, relative to storage."""
    return f"stages/{key[0]}/{key[1]}"
