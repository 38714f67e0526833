"""From a node of the stage graph to what its program is told in a pod."""

from __future__ import annotations

from multitask_api.cluster import model_folder
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.manifest import StageOrder
from multitask_api.stages import ArtifactKey, Graph, Node, NodeState, artifact_filename
from multitask_operator.objects.resources import gpus, threads
from multitask_operator.objects.volumes import is_local, storage_location, work_folder


def stage_order(model: str, spec: MultiTaskModelSpec, graph: Graph, node: Node) -> StageOrder:
    """The order of ``node``, which is READY. Progress and result go through the unit's ConfigMap, not through files.

    ``model``: see `writer`. Scratch and checkpoints have a folder of the model's own, by which a clean-up knows them.
    """
    if node.digest is None or node.parameters is None:
        raise ValueError(f"{node.name} is {node.state.value}: what it reads is not known yet")
    key = (node.name, node.digest)
    work = f"{model_folder(model)}/{artifact_filename(key)}"
    return StageOrder(
        model=model,
        stage=node.name,
        kind=node.kind,
        digest=node.digest,
        version=node.version,
        parameters=node.parameters.to_json(),
        read_outputs=dict(node.read_outputs or {}),
        inputs=_inputs(spec, graph, node),
        output=artifact_location(spec, key),
        work=work_folder(spec, work),
        checkpoint=None if is_local(spec) else f"{storage_location(spec)}/work/{work}",
        threads=threads(spec, node.kind),
        device="cuda" if gpus(spec, node.kind) else "cpu",
    )


def artifact_location(spec: MultiTaskModelSpec, key: ArtifactKey) -> str:
    """Where the artifact of a stage lies, as a pod sees it."""
    return f"{storage_location(spec)}/stages/{key[0]}/{key[1]}"


def _inputs(spec: MultiTaskModelSpec, graph: Graph, node: Node) -> dict[str, str]:
    needed = (graph[name] for name in node.needs)
    return {
        each.name: artifact_location(spec, (each.name, each.digest))
        for each in needed
        if each.state is NodeState.DONE and each.digest is not None
    }
