"""Which checkpoint is kept, where a run saturated, and whether it was cut short. Pure.

Selection is by score on validation rows, ties by loss. A baseline and stage 2 take the mean of their tasks' scores; a
mixture takes the mean over tasks of score / that task's baseline score, so that a hard task
counts as much as an easy one.

Of a mixture the end of the decay is kept unless an earlier checkpoint is better by more than the noise of the
validation rows (the rule of one standard error, Breiman et al. 1984). A task with few rows swings more between two
validations than all others together, and would choose by chance among checkpoints whose learning rate is still high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multitask_api.stage_io.results import CurvePoint, TaskPoint

_SMALLEST_REFERENCE = 0.01
"""Below it a ratio is noise (a correlation of 0, a text metric that never matched): the difference counts instead."""


@dataclass(frozen=True)
class Selection:
    """``references``: task → its baseline's validation score; empty for a baseline and for stage 2.

    ``rows``: task → its number of validation rows, of a mixture; empty: the highest value is chosen whatever its noise.
    """

    references: Mapping[str, float]
    rows: Mapping[str, int] = field(default_factory=dict)

    def value(self, points: Mapping[str, TaskPoint]) -> float:
        """What is to be highest."""
        values = [self.task_value(name, point.score) for name, point in points.items()]
        return sum(values) / len(values)

    def end_is_as_good(self, points: Mapping[str, TaskPoint], best_value: float) -> bool:
        """Whether the end of a run, with these ``points``, is chosen though an earlier value was higher."""
        return bool(self.rows) and self.value(points) >= best_value - self.noise(points)

    def noise(self, points: Mapping[str, TaskPoint]) -> float:
        """The standard error of the difference of two values that are alike, from each task's number of rows.

        A score between 0 and 1 is a mean of rows; the variance of a row is at most score · (1 - score).
        """
        variances = []
        for name, point in points.items():
            score = min(1.0, max(0.0, point.score))
            scale = self.task_value(name, 1.0) - self.task_value(name, 0.0)
            variances.append(scale**2 * score * (1 - score) / max(1, self.rows.get(name, 1)))
        return math.sqrt(2 * sum(variances)) / len(variances)

    def task_value(self, task: str, score: float) -> float:
        """One task's part in it."""
        if not self.references:
            return score
        # A task without a baseline of its own counts as if its baseline were perfect: its plain score.
        reference = self.references.get(task, 1.0)
        return score / reference if reference >= _SMALLEST_REFERENCE else 1 + score - reference


def mean_loss(points: Mapping[str, TaskPoint]) -> float:
    """The mean over tasks of the validation loss."""
    return sum(point.loss for point in points.values()) / len(points)


def is_better(candidate: tuple[float, float], best: tuple[float, float]) -> bool:
    """Whether (value, loss) is better: a higher value, or the same with a lower loss."""
    return (candidate[0], -candidate[1]) > (best[0], -best[1])


def saturation_step(curve: Sequence[CurvePoint]) -> int:
    """The step of the lowest validation loss (mean over tasks) in warm-up and constant phase."""
    return min(_before_decay(curve), key=lambda point: mean_loss(point.tasks)).step


def still_improving(curve: Sequence[CurvePoint], selection: Selection, *, ended_by_limit: bool) -> bool:
    """Whether the limit ended training while the model was still improving.

    The last validation before the decay has both the highest value and the lowest loss of all before it, neither
    of them shared: a plateau's last point is the best by chance, but rarely in both. One validation shows nothing.
    """
    points = _before_decay(curve)
    if not ended_by_limit or len(points) < 2:
        return False
    *earlier, last = points
    value, loss = selection.value(last.tasks), mean_loss(last.tasks)
    return all(selection.value(point.tasks) < value and mean_loss(point.tasks) > loss for point in earlier)


def _before_decay(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    # A run too short for a validation before the decay is measured by all of its validations.
    return [point for point in curve if point.phase != "decay"] or list(curve)
