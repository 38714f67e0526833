"""As what a run's result is served: one base with adapters, one merged model, or whole models. Pure."""

from __future__ import annotations

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stages import Graph
from multitask_operator.formatting import counted, size
from multitask_operator.planner.results import export_of


def served_as(spec: MultiTaskModelSpec, graph: Graph) -> str:
    """What the servers hold, in words: of the export if there is one, else what is to be expected of ``spec``."""
    result = export_of(graph)
    if result is None:
        return _expected(spec, graph)
    if not result.promoted:
        return "nothing new: the export promotes no revision"
    adapters = {(task.model, task.adapter) for task in result.tasks if task.adapter is not None}
    models = {task.model for task in result.tasks if task.model is not None}
    held = size(sum(result.models.values()))
    if adapters:
        return f"one base with {counted(len(adapters), 'adapter')}, {held}"
    if spec.tuning.method == "Full":
        return f"{counted(len(models), 'whole model')} (method Full), {held}"
    return f"one model, the only adapter merged into the base, {held}"


def _expected(spec: MultiTaskModelSpec, graph: Graph) -> str:
    """Without an export: all groups qualify, or some tasks have to be answered by their own baselines."""
    others = "one more for each task that does not qualify"
    if spec.tuning.method == "CGCLoRA":
        if len(spec.tasks) > 1:
            return f"one base with {len(spec.tasks)} adapters, one a task"
    elif not graph.groups:
        held = "a whole model (method Full)" if spec.tuning.method == "Full" else "one base with an adapter"
        return f"{held} for each group, which the stage affinity finds, and {others}"
    elif spec.tuning.method == "Full":
        return f"{counted(len(graph.groups), 'whole model')} (method Full), and {others}"
    elif len(graph.groups) > 1:
        return f"one base with {len(graph.groups)} adapters, and {others}"
    return "one model, the only adapter merged into the base, if every task qualifies; else one base with adapters"
