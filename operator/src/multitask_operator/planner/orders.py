"""From a node of the stage graph to the order that its program gets, wherever that runs."""

from __future__ import annotations

from collections.abc import Callable

from multitask_api.resource.training import GradientCheckpointing, Sharding, Tracker
from multitask_api.stage_io.manifest import StageOrder
from multitask_api.stages import ArtifactKey, Graph, Node, NodeState
from multitask_operator.planner.costs import TRAINING


def stage_order(
    model: str,
    graph: Graph,
    node: Node,
    artifact: Callable[[ArtifactKey], str],
    *,
    work: str,
    threads: int,
    device: str,
    checkpoint: str | None = None,
    progress: str | None = None,
    data_root: str = ".",
    gradient_checkpointing: GradientCheckpointing | None = None,
    sharding: Sharding | None = None,
    report_to: tuple[Tracker, ...] | None = None,
) -> StageOrder:
    """The order of ``node``, which is READY; ``artifact`` gives the address of a (stage, digest)'s artifact folder.

    ``model`` is its name, in a cluster the one that `qualified_name` gives; the others as in `StageOrder`.
    """
    if node.digest is None or node.parameters is None:
        raise ValueError(f"{node.name} is {node.state.value}: what it reads is not known yet")
    needed = {name: graph[graph[name].stand_in or name] for name in node.needs}
    start = node.start.key if node.start else None  # an earlier result of the stage itself
    return StageOrder(
        model=model,
        stage=node.name,
        kind=node.kind,
        digest=node.digest,
        version=node.version,
        parameters=node.parameters.to_json(),
        read_outputs=dict(node.read_outputs or {}),
        inputs={
            name: artifact((each.name, each.digest))
            for name, each in needed.items()
            if each.state is NodeState.DONE and each.digest is not None
        }
        | ({start[0]: artifact(start)} if start else {}),
        output=artifact((node.name, node.digest)),
        work=work,
        checkpoint=checkpoint,
        progress=progress,
        threads=threads,
        device=device,
        data_root=data_root,
        gradient_checkpointing=gradient_checkpointing if node.kind in TRAINING else None,
        # The check trains too, but on one GPU.
        sharding=sharding if node.kind in TRAINING and node.kind != "check" else None,
        report_to=(report_to or None) if node.kind in TRAINING else None,
    )
