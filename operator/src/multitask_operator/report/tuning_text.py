"""Which weights a group trains, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multitask_api.resource import MultiTaskModel
from multitask_api.resource.tuning import Tuning
from multitask_api.stages import Graph
from multitask_operator.formatting import counted


def tuning_text(tuning: Tuning, tasks: Sequence[str]) -> str:
    """What a group of ``tasks`` trains, and the rank that is served.

    Raises ValueError where the rank cannot be divided among the experts of the group; such a group never trains.
    """
    own = tuning.for_group(tasks)
    if own.method == "Full":
        return "Full: all weights"
    layers = f"on {', '.join(own.target_modules)}" if own.target_modules else "on all projections"
    layers += f", on a base in {own.quantization}" if own.quantization else ""
    scale = f"α {own.alpha:g}{' / √r' if own.use_rslora else ''}, {layers}"
    if not own.has_experts:
        return f"LoRA of rank {own.rank}, {scale}"
    rank = own.expert_rank_in(len(tasks))
    kinds = [
        f"{count} {kind}"
        for count, kind in ((own.common_experts, "common"), (own.specific_experts, "for each task"))
        if count
    ]
    gate = "" if own.gate == "Task" else ", without a gate"
    return (
        f"CGC-LoRA: {counted(own.experts(len(tasks)), 'expert')} of rank {rank} ({', '.join(kinds)}{gate}), {scale};"
        f" each task is served as a LoRA of rank {own.experts_of_a_task * rank}"
    )


def tuning_lines(model: MultiTaskModel, graph: Graph) -> Iterator[str]:
    """What each group and the baselines train, and what is served; groups that train the same share a line."""
    tuning, by_text = model.spec.tuning, dict[str, list[str]]()
    for group, tasks in graph.groups.items():
        if len(tasks) == 1 or tuning.rank_problem(len(tasks)) is None:  # else it never trains
            by_text.setdefault(tuning_text(tuning, tasks), []).append(group)
    if graph.of_kind("baseline"):
        by_text.setdefault(tuning_text(tuning, ["one task"]), []).append("baselines")
    for text, names in by_text.items():
        yield f"trained weights, {', '.join(names)}: {text}"
