"""Which baselines one process trains together on one base. Pure.

On a GPU many rows of one pass cost little more than few, so the LoRA baselines of a model that are ready train in units
of at most `MOST_TOGETHER`. On a CPU a token costs the same whoever shares the pass (measured: a step of eight together
took 0.95 of the time of their eight steps, docs/results/baselines-together.md), and processes side by side use the
cores better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from multitask_api.resource import MultiTaskModelSpec

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
