"""The time that the remaining training takes at most, from the speed measured so far."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.parameters import BaseParameters, TrainParameters
from multitask_api.stage_io.results import BaseResult, TrainResult
from multitask_api.stages import Graph, Node, NodeState, groups

_TRAINING = ("baseline", "high-resource", "mixture")


@dataclass(frozen=True)
class Estimate:
    """Seconds of one process, if no stage stops early, at the median speed measured so far."""

    seconds: float
    tokens_per_second: float


def estimate(model: MultiTaskModel, graph: Graph) -> Estimate | None:
    """None while no stage has measured a speed, or the length of a row is not known."""
    results = [
        TrainResult.model_validate(node.manifest.result)
        for node in graph.nodes
        if node.kind in _TRAINING and node.manifest is not None
    ]
    base = graph["base"].manifest
    bases = [BaseResult.model_validate(base.result)] if base else []
    measured: list[TrainResult | BaseResult] = [*results, *bases]
    speeds = [item.tokens_per_second for item in measured if item.tokens_per_second]
    batch = model.spec.training.batch_rows
    lengths = [item.tokens / (item.steps * batch) for item in measured if item.steps and item.tokens]
    if not speeds or not lengths:
        return None
    speed, length = median(speeds), median(lengths)
    steps = sum(_steps(node, model) for node in graph.nodes if node.state in (NodeState.READY, NodeState.WAITING))
    return Estimate(steps * batch * length / speed, speed)


def _steps(node: Node, model: MultiTaskModel) -> int:
    """The most steps a stage may take; a mixture without a budget of its own gets the sum of the baselines'."""
    if isinstance(node.parameters, TrainParameters):
        return node.parameters.max_steps
    if isinstance(node.parameters, BaseParameters):
        return node.parameters.pretraining.max_steps if node.parameters.pretraining else 0
    stages = model.spec.stages
    if node.kind == "baseline":
        return stages.baseline.max_steps
    if node.kind == "high-resource":
        return stages.high_resource.max_steps if stages.high_resource.enabled else 0
    if node.kind == "mixture":
        group = node.name.split("/", 1)[1]
        return stages.mixture.max_steps or stages.baseline.max_steps * len(groups(model.spec)[group])
    return 0
