"""The most steps that stages may take. Pure."""

from __future__ import annotations

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.parameters import BaseParameters, CheckParameters, TrainParameters
from multitask_api.stages import Graph, Node


def steps_of(node: Node, model: MultiTaskModel, graph: Graph) -> int:
    """The most steps a stage may take; a mixture without a budget of its own gets the sum of the baselines'."""
    if isinstance(node.parameters, TrainParameters):
        return node.parameters.max_steps
    if isinstance(node.parameters, CheckParameters):
        return 2 * node.parameters.max_steps  # the second run has fewer
    if isinstance(node.parameters, BaseParameters):
        return node.parameters.pretraining.max_steps if node.parameters.pretraining else 0
    stages = model.spec.stages
    if stages.total_steps is not None and node.kind in ("high-resource", "mixture"):
        return -(-stages.total_steps // len(graph.groups)) if node.kind == "mixture" else 0
    if node.kind == "baseline":
        return stages.baseline.max_steps
    if node.kind == "high-resource":
        return stages.high_resource.max_steps if stages.high_resource.enabled else 0
    if node.kind == "mixture":
        group = node.name.split("/", 1)[1]
        return stages.mixture.max_steps or stages.baseline.max_steps * len(graph.groups[group])
    return 0


def steps_of_unknown_groups(model: MultiTaskModel, graph: Graph) -> int:
    """The most steps of stages 2 and 3 while the groups are not known: of as many groups as there may be."""
    if not graph.open_kinds:
        return 0
    stages, tasks = model.spec.stages, len(model.spec.tasks)
    if stages.total_steps is not None:
        return stages.total_steps
    most = min(tasks, model.spec.filtering.max_groups or tasks)
    mixtures = most * stages.mixture.max_steps if stages.mixture.max_steps else tasks * stages.baseline.max_steps
    return mixtures + (most * stages.high_resource.max_steps if stages.high_resource.enabled else 0)
