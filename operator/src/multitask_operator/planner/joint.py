"""Which baselines one process trains together on one base. Pure.

On a GPU many rows of one pass cost little more than few, so the LoRA baselines of a model that are ready train in
groups of at most `MOST_TOGETHER`, and in as many groups as can be at work at once. On a CPU a token costs the same
whoever shares the pass (measured: a step of eight together took about the processor time of their eight steps), and
processes side by side use the cores better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stages import Graph, NodeState
from multitask_api.stages.joint_training import why_apart

T = TypeVar("T")

MOST_TOGETHER = 8
"""The validations of each hold up the others, and what ends the process ends the attempt of all."""


def trains_together(spec: MultiTaskModelSpec, kind: str) -> bool:
    """Whether stages of ``kind`` can share a process."""
    training = spec.training
    return kind == "baseline" and why_apart(spec.tuning.for_baseline(), training.sharding, training.report_to) is None


def joint_groups(items: Sequence[T], places: int) -> list[tuple[T, ...]]:
    """``items`` as the groups that one process each trains, in order; sizes differ by one at the most.

    ``places``: how many processes can be at work at once. There is a group for each, so that no GPU is idle, and there
    are more where a group would have more than `MOST_TOGETHER`. Without a place all wait, and it is as with one.
    """
    if not items:
        return []
    count = max(1, min(places, len(items)), -(-len(items) // MOST_TOGETHER))
    sizes = [len(items) // count + (number < len(items) % count) for number in range(count)]
    begins = [sum(sizes[:number]) for number in range(count)]
    return [tuple(items[begin : begin + size]) for begin, size in zip(begins, sizes, strict=True)]


@dataclass(frozen=True)
class BaselineWork:
    """How the baselines of a graph come about. ``processes``: sizes of those that train them, each once."""

    train: int
    cached: int
    declared: int
    processes: tuple[int, ...]

    @classmethod
    def of(cls, spec: MultiTaskModelSpec, graph: Graph, places: int) -> BaselineWork:
        """``places``: see `joint_groups`; 0 if each trains in a process of its own."""
        nodes = graph.of_kind("baseline")
        cached = [node for node in nodes if node.state is NodeState.DONE]
        left = [node for node in nodes if node.state in (NodeState.READY, NodeState.WAITING)]
        trained = {task for node in nodes for task in node.name.split("/")[1:2]}
        declared = [task for task in spec.tasks if task.baseline is not None and task.name not in trained]
        share = places and trains_together(spec, "baseline")
        sizes = [len(group) for group in joint_groups(left, places)] if share else [1] * len(left)
        return cls(len(left), len(cached), len(declared), tuple(sizes))

    def __str__(self) -> str:
        """For a person; empty if there are no baselines."""
        counts = {"to train": self.train, "cached": self.cached, "declared": self.declared}
        parts = [f"{count} {what}" for what, count in counts.items() if count]
        if any(size > 1 for size in self.processes):
            sizes = " and ".join(str(size) for size in dict.fromkeys(self.processes))
            several = "processes" if len(self.processes) > 1 else "process"
            parts.append(f"together in {len(self.processes)} {several} of {sizes} on one base")
        elif self.train > 1:
            parts.append("each in a process of its own")
        return ", ".join(parts)
