"""The most steps that stages may take. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from multitask_api.resource import MultiTaskModel
from multitask_api.resource.training import BaselineStage
from multitask_api.stage_io.manifest import RowSample
from multitask_api.stage_io.parameters import BaseParameters, CheckParameters, TrainParameters
from multitask_api.stage_io.results import PrepareResult
from multitask_api.stages import Graph, Node, NodeState
from multitask_operator.formatting import counted

MOST_EPOCHS = 50
"""Over a task's rows. More of them seldom teach anything: early stopping ends most trainings long before."""


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


def epoch_hints(model: MultiTaskModel, graph: Graph, samples: Mapping[str, RowSample] | None) -> Iterator[str]:
    """One sentence where the default steps of a baseline are more than `MOST_EPOCHS` over its task's rows.

    The rows are those that were prepared, else those of ``samples`` (task → what was read), if that was all of them.
    """
    steps, batch = model.spec.stages.baseline.max_steps, model.spec.training.batch_rows
    if steps != BaselineStage().max_steps:
        return
    rows = _rows(graph, samples or {})
    left = [node for node in graph.of_kind("baseline") if node.state in (NodeState.READY, NodeState.WAITING)]
    tasks = {node.name.split("/")[1] for node in left}
    short = {task: rows[task] for task in tasks & rows.keys() if steps * batch > MOST_EPOCHS * rows[task]}
    if not short:
        return
    least = min(short, key=lambda task: (short[task], task))
    more = counted(len(short) - 1, "other task")
    others = f", and more than {MOST_EPOCHS} over those of {more}" if len(short) > 1 else ""
    epochs, enough = steps * batch / short[least], -(-MOST_EPOCHS * short[least] // batch)
    yield (
        f"spec.stages.baseline.maxSteps: the default of {steps:,} steps is {epochs:,.0f} epochs over the"
        f" {short[least]:,} rows of {least}{others}, if training does not stop early; lower it ({enough:,} steps are"
        f" {MOST_EPOCHS} epochs of {least})"
    )


def _rows(graph: Graph, samples: Mapping[str, RowSample]) -> dict[str, int]:
    """Task → its training rows, where their number is known."""
    rows = {task: sample.rows for task, sample in samples.items() if sample.is_complete}
    for node in graph.of_kind("prepare"):
        if node.manifest is not None:
            prepared = PrepareResult.model_validate(node.manifest.result)
            rows[node.name.split("/")[1]] = prepared.rows.train
    return {task: count for task, count in rows.items() if count}
