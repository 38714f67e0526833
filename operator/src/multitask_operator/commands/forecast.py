"""What ``mtm plan`` says of the affinities of the tasks, before anything is trained. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.affinity import AffinityResult
from multitask_api.stages import Graph, NodeState

MOST_PRINTED = 12
"""Tasks whose pairs are all printed."""


def forecast_lines(model: MultiTaskModel, graph: Graph, found: AffinityResult | None) -> Iterator[str]:
    """The groups, why, and how each task stands to those before it; or what they wait for."""
    if model.spec.filtering.strategy != "Affinity":
        return
    if found is None:
        nodes = graph.of_kind("gradients")
        done = sum(node.state is NodeState.DONE for node in nodes)
        yield f"groups: not known before the stage affinity is done; gradients of {done} of {len(nodes)} tasks"
        return
    for group, tasks in found.groups.items():
        yield f"group {group}: {', '.join(tasks)}"
    yield from found.reasons
    if len(found.tasks) > MOST_PRINTED:
        return
    for row, task in enumerate(found.tasks):
        pairs = zip(found.tasks, found.affinity[row], found.half_width[row], strict=False)
        text = ", ".join(f"{other} {value:.2f} ± {half_width:.2f}" for other, value, half_width in pairs)
        if text:
            yield f"affinity of {task}: {text}"
