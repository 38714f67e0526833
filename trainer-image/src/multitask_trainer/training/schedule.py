"""Learning rate and end of training. Pure.

Warm-up, constant, then a linear decay tail of 15 % of the steps so far. Nobody knows beforehand when early stopping
will begin the tail; the limit includes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Phase = Literal["warmup", "constant", "decay"]

TAIL_SHARE = 0.15


def tail_steps(steps: int) -> int:
    """Length of the tail after ``steps`` steps; at least one."""
    return max(1, math.ceil(TAIL_SHARE * steps))


@dataclass(frozen=True)
class Schedule:
    """The plan before training: ``max_steps`` is the limit, tail included."""

    warmup_steps: int
    max_steps: int

    @property
    def latest_tail(self) -> int:
        """Steps done when the tail begins at the latest, so that it ends at the limit."""
        begin = int(self.max_steps / (1 + TAIL_SHARE)) + 1
        while begin > 0 and begin + tail_steps(begin) > self.max_steps:
            begin -= 1
        return begin

    def end(self, tail_begin: int | None) -> int:
        """Steps in all, given where the tail began (None: not yet)."""
        if tail_begin is None or tail_begin >= self.latest_tail:
            return self.max_steps
        return tail_begin + tail_steps(tail_begin)

    def phase(self, step: int, tail_begin: int | None) -> Phase:
        """The phase in which the step after ``step`` done steps is made."""
        if tail_begin is not None and step >= tail_begin:
            return "decay"
        return "warmup" if step < self.warmup_steps else "constant"

    def factor(self, step: int, tail_begin: int | None) -> float:
        """What the learning rate is multiplied with in the step after ``step`` done steps; never 0."""
        factor = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if tail_begin is not None and step >= tail_begin:
            length = self.end(tail_begin) - tail_begin
            factor *= 1 - (step - tail_begin) / length
        return factor
