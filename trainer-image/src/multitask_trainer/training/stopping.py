"""Why a run begins its decay before its limit. Pure.

Baselines and stage 2 have patience with their best validation. A mixture of many tasks swings between validations, and
its value keeps reaching new heights by chance when it has long settled. So its value is smoothed, and a rise below
`MIN_RISE` counts as none. Its decay begins

- when it is *settled*: every task has reached its baseline, and nothing has risen for `SETTLED_EVALS` validations;
- when patience ends: it has not risen for ``patience`` validations, whatever its tasks have reached. That is longer,
  because a mixture may stand still before it picks up a task.
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
"""Of a smoothed value, in units of the baseline: a smaller rise is noise."""
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
    """``smooth`` for a mixture. ``patience``: validations without a better value."""

    selection: Selection
    patience: int
    smooth: bool = False

    def reason(self, curve: Sequence[CurvePoint], evals_without_improvement: int) -> StopReason | None:
        """Why the decay should begin after the validations in ``curve``, all of them before it; None: it should not.

        ``evals_without_improvement`` counts the validations since the best one.
        """
        if not self.smooth:
            return "patience" if evals_without_improvement >= self.patience else None
        flat = evals_since_rise([self.selection.value(point.tasks) for point in curve])
        if flat >= SETTLED_EVALS and self._all_reached(curve):
            return "settled"
        return "patience" if flat >= self.patience else None

    def reason_at_decay(self, curve: Sequence[CurvePoint]) -> StopReason:
        """The reason for which a run with this whole curve began its decay, given that it was not the limit."""
        before = [point for point in curve if point.phase != "decay"]
        # Patience is what is left, also for a run that a release without `settled` began.
        return self.reason(before, self.patience) or "patience"

    def _all_reached(self, curve: Sequence[CurvePoint]) -> bool:
        """Whether every task has a baseline and has reached it."""
        names = curve[-1].tasks if curve else {}
        return bool(names) and all(
            name in self.selection.references
            and max(smoothed([self.selection.task_value(name, point.tasks[name].score) for point in curve])) >= REACHED
            for name in names
        )


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and the `SMOOTHED_EVALS` - 1 before it."""
    windows = [values[max(0, end - SMOOTHED_EVALS) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def evals_since_rise(values: Sequence[float]) -> int:
    """How many validations ago the smoothed value last rose above all before it by more than `MIN_RISE`."""
    best, since = float("-inf"), 0
    for value in smoothed(values):
        since = 0 if value > best + MIN_RISE else since + 1
        best = max(best, value)
    return since
