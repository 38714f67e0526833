"""Which baselines one process trains together on one base. Pure.

On a GPU many rows of one pass cost little more than few, so the LoRA baselines of a model that are ready train in units
of at most `MOST_TOGETHER`. On a CPU a token costs the same whoever shares the pass (measured: a step of eight together
took about the processor time of their eight steps), and processes side by side use the cores better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stages import Graph, NodeState

T = TypeVar("T")

MOST_TOGETHER = 8
"""The validations of each hold up the others, and what ends the process ends the attempt of all."""


def trains_together(spec: MultiTaskModelSpec, kind: str) -> bool:
    """Whether stages of ``kind`` can share a process: as the trainer's ``why_apart`` has it.

    A tracker of experiments takes one run a process.
    """
    return kind == "baseline" and spec.tuning.for_baseline().can_share_base and not spec.training.report_to


def in_units(items: Sequence[T], most: int = MOST_TOGETHER) -> list[tuple[T, ...]]:
    """As few units as possible of at most ``most``, of sizes that differ by one at the most; in order."""
    count = -(-len(items) // most)
    sizes = [len(items) // count + (number < len(items) % count) for number in range(count)]
    begins = [sum(sizes[:number]) for number in range(count)]
    return [tuple(items[begin : begin + size]) for begin, size in zip(begins, sizes, strict=True)]


def units_on(items: Sequence[T], gpus: int) -> list[tuple[T, ...]]:
    """The units of what can share a process: as many as there are GPUs, or more."""
    return in_units(items, min(MOST_TOGETHER, -(-len(items) // gpus))) if items else []


@dataclass(frozen=True)
class BaselineWork:
    """How the baselines of a graph come about. ``processes``: sizes of those that train them, each once."""

    train: int
    cached: int
    declared: int
    processes: tuple[int, ...]

    @classmethod
    def of(cls, spec: MultiTaskModelSpec, graph: Graph, gpus: int) -> BaselineWork:
        """``gpus``: those that trainings can have one each of; 0 if they train elsewhere, or share several."""
        nodes = graph.of_kind("baseline")
        cached = [node for node in nodes if node.state is NodeState.DONE]
        left = [node for node in nodes if node.state in (NodeState.READY, NodeState.WAITING)]
        trained = {task for node in nodes for task in node.name.split("/")[1:2]}
        declared = [task for task in spec.tasks if task.baseline is not None and task.name not in trained]
        share = gpus and trains_together(spec, "baseline")
        sizes = [len(unit) for unit in units_on(left, gpus)] if share else [1] * len(left)
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
