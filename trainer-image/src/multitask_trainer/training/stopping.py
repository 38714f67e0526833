"""Why a run begins its decay before its limit. Pure.

Baselines and stage 2 have patience with their best validation. A mixture of many tasks swings between validations, and
its value keeps reaching new heights by chance when it has long settled. So values are smoothed, and only a rise above
the last one that counted, by `MIN_RISE` or more, counts: small steps add up. The mean over many tasks hides one that
still learns; so a rise by `MIN_TASK_RISE`, or a fall of its loss by `MIN_LOSS_FALL`, counts too of a task that has not
reached its baseline. The decay begins

- when it is *settled*: every task has reached its baseline, and nothing has risen for `SETTLED_EVALS` validations;
- when patience ends: nothing has risen for ``patience`` validations, whatever the tasks have reached. That is longer,
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
"""Of the smoothed mean over tasks, in units of the baselines: a smaller rise is noise."""
MIN_TASK_RISE = 0.02
"""Of one task's smoothed value, in units of its baseline: it has fewer rows than all together."""
MIN_LOSS_FALL = 0.02
"""Of one task's smoothed loss, as a share of it."""
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
        flat = evals_since_rise([self.selection.value(point.tasks) for point in curve], MIN_RISE)
        missing = self._tasks_below_their_baselines(curve)
        for name in missing:
            values, losses = self._values(name, curve), [point.tasks[name].loss for point in curve]
            flat = min(flat, evals_since_rise(values, MIN_TASK_RISE), evals_since_fall(losses, MIN_LOSS_FALL))
        if not missing and flat >= SETTLED_EVALS:
            return "settled"
        return "patience" if flat >= self.patience else None

    def reason_at_decay(self, curve: Sequence[CurvePoint]) -> StopReason:
        """The reason for which a run with this whole curve began its decay, given that it was not the limit."""
        before = [point for point in curve if point.phase != "decay"]
        # Patience is what is left, also for a run that a release without `settled` began.
        return self.reason(before, self.patience) or "patience"

    def _tasks_below_their_baselines(self, curve: Sequence[CurvePoint]) -> list[str]:
        """Those that have not reached it at any time, and those that have none."""
        return [
            name
            for name in (curve[-1].tasks if curve else ())
            if name not in self.selection.references or max(smoothed(self._values(name, curve))) < REACHED
        ]

    def _values(self, task: str, curve: Sequence[CurvePoint]) -> list[float]:
        return [self.selection.task_value(task, point.tasks[task].score) for point in curve]


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


def evals_since_fall(losses: Sequence[float], least: float) -> int:
    """How many validations ago the smoothed loss last fell below the last fall that counted, by ``least`` of that."""
    lowest, since = float("inf"), 0
    for loss in smoothed(losses):
        since += 1
        if loss <= lowest * (1 - least):
            lowest, since = loss, 0
    return since
