"""Task filtering: which tasks are trained together (stage 1 of arXiv 2411.03644)."""

from __future__ import annotations

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.grouping import group_tasks


def groups(spec: MultiTaskModelSpec) -> dict[str, tuple[str, ...]]:
    """Group name → task names, both in the order of the spec. Under Affinity: the tasks that may be trained together.

    Which of them are is known once the stage ``affinity`` is done: `multitask_api.stages.nodes.Graph.groups` has it.
    """
    return group_tasks(spec.tasks, spec.filtering.strategy)
