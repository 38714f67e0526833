"""Learning rate and end of training. Pure.

Warm-up, constant, then a linear decay over 15 % of the steps so far. The decay begins when early stopping says so, or
early enough to end at the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Phase = Literal["warmup", "constant", "decay"]

DECAY_SHARE = 0.15


def decay_steps(steps: int) -> int:
    """Length of the decay after ``steps`` steps; at least one."""
    return max(1, math.ceil(DECAY_SHARE * steps))


def is_evenly_spaced(step: int, number: int, limit: int) -> bool:
    """Whether ``step`` is one of ``number`` steps at equal distances up to ``limit``; with fewer steps each one is.

    They are ceil(i · limit / number) for i from 1 to ``number``.
    """
    return step * number // limit > (step - 1) * number // limit


@dataclass(frozen=True)
class Schedule:
    """The plan before training: ``max_steps`` is the limit, decay included."""

    warmup_steps: int
    max_steps: int

    @property
    def latest_decay_start(self) -> int:
        """Steps done when the decay begins at the latest, so that it ends at the limit."""
        begin = int(self.max_steps / (1 + DECAY_SHARE)) + 1
        while begin > 0 and begin + decay_steps(begin) > self.max_steps:
            begin -= 1
        return begin

    def end(self, decay_start: int | None) -> int:
        """Steps in all, given where the decay began (None: not yet)."""
        if decay_start is None or decay_start >= self.latest_decay_start:
            return self.max_steps
        return decay_start + decay_steps(decay_start)

    def phase(self, step: int, decay_start: int | None) -> Phase:
        """The phase in which the step after ``step`` done steps is made."""
        if decay_start is not None and step >= decay_start:
            return "decay"
        return "warmup" if step < self.warmup_steps else "constant"

    def factor(self, step: int, decay_start: int | None) -> float:
        """What the learning rate is multiplied with in the step after ``step`` done steps; never 0."""
        factor = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if decay_start is not None and step >= decay_start:
            length = self.end(decay_start) - decay_start
            factor *= 1 - (step - decay_start) / length
        return factor
