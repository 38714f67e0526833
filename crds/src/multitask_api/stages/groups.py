"""Task filtering: which tasks are trained together (stage 1 of arXiv 2411.03644)."""

from __future__ import annotations

from multitask_api.resource import MultiTaskModelSpec, TaskSpec

_TAXONOMY_GROUPS = {"Binary": "binary", "Ordinal": "ordinal", "MultiClass": "multi-class", None: "generation"}


def groups(spec: MultiTaskModelSpec) -> dict[str, tuple[str, ...]]:
    """Group name → task names, both in the order of the spec."""
    by_group: dict[str, list[str]] = {}
    for task in spec.tasks:
        by_group.setdefault(_group_of(task, spec.filtering.strategy), []).append(task.name)
    return {name: tuple(tasks) for name, tasks in by_group.items()}


def _group_of(task: TaskSpec, strategy: str) -> str:
    if strategy == "None":
        return "all"
    if strategy == "Manual":
        if task.group is None:
            raise ValueError(f"task {task.name}: filtering.strategy Manual needs a group")
        return task.group
    if strategy == "Taxonomy":
        return _TAXONOMY_GROUPS[task.resolved_taxonomy]
    return task.type.lower()
