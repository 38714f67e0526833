"""Why a run begins its decay before its limit. Pure.

Baselines and stage 2 have patience with their best validation: ``patience`` validations in a row without a better one.

A mixture of many tasks swings between validations, and its value keeps reaching new heights by chance when it has long
settled. So values are smoothed, and only a rise above the last one that counted, by `MIN_RISE` or more, counts: small
steps add up. The decay begins when the mixture is *settled*: every task has reached its baseline, and nothing has risen
for `SETTLED_EVALS` validations.

A mixture with a task below its baseline goes on to its limit, however long it stands still: it may pick the task up
yet, and others gain as well. In the support-desk example, patience cost two of eight tasks their qualification with one
seed in three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from multitask_api.stage_io.results import CurvePoint
from multitask_trainer.training.selection import Selection

SMOOTHED_EVALS = 3
"""A smoothed value is the mean of this many validations, or of all so far."""
MIN_RISE = 0.002
"""Of the smoothed mean over tasks, in units of the baselines: a smaller rise is noise."""
REACHED = 0.99
"""A task has reached its baseline if its smoothed value was this share of it at any time. The baseline's score is that
of its best validation, which noise lifts."""
SETTLED_EVALS = 2

StopReason = Literal["settled", "patience"]
REASONS = {
    "settled": f"every task has reached its baseline, and nothing has risen for {SETTLED_EVALS} validations",
    "patience": "the validations have not become better for as long as training.patience says",
    "limit": "the limit of steps is near",
}
"""Why the decay began, in words."""


@dataclass(frozen=True)
class EarlyStopping:
    """``patience``: validations without a better value, of all that is no mixture."""

    selection: Selection
    patience: int
    is_mixture: bool = False

    @property
    def reason(self) -> StopReason:
        """Why a run begins its decay before its limit, if it does."""
        return "settled" if self.is_mixture else "patience"

    def is_due(self, curve: Sequence[CurvePoint], evals_without_improvement: int) -> bool:
        """Whether the decay should begin after the validations in ``curve``, all of them before it.

        ``evals_without_improvement`` counts the validations since the best one.
        """
        if not self.is_mixture:
            return evals_without_improvement >= self.patience
        if not curve or not all(self._has_reached_its_baseline(task, curve) for task in curve[-1].tasks):
            return False
        return evals_since_rise([self.selection.value(point.tasks) for point in curve], MIN_RISE) >= SETTLED_EVALS

    def _has_reached_its_baseline(self, task: str, curve: Sequence[CurvePoint]) -> bool:
        """At any time. A task without a baseline never does."""
        values = [self.selection.task_value(task, point.tasks[task].score) for point in curve]
        return task in self.selection.references and max(smoothed(values)) >= REACHED


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and the `SMOOTHED_EVALS` - 1 before it."""
    windows = [values[max(0, end - SMOOTHED_EVALS) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def evals_since_rise(values: Sequence[float], least: float) -> int:
    """How many validations ago the smoothed value last rose above the last rise that counted, by ``least`` or more."""
    best, since = float("-inf"), 0
    for value in smoothed(values):
        since += 1
        if value >= best + least:
            best, since = value, 0
    return since
