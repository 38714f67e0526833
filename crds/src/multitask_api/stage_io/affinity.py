"""The results of the stages ``gradients``, ``affinity`` and ``check``, typed; see ``results`` for the others."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from multitask_api.stage_io.results import TaskPoint
from multitask_api.types import Record


class GradientsResult(Record):
    """The sketch of one task's gradient."""

    rows: int = Field(description="Training rows that were read.")
    chunks: int = Field(description="Parts of these rows, each with a sketch of its own.")
    weights: int = Field(description="Weights whose gradients were taken.")
    truncated_rows: int = 0


class AffinityResult(Record):
    """How much a step on one task helps another, at the base model, and the groups that follow.

    1: as much as a step of the same length on the other task itself; 0: not at all; below 0: it hurts.
    """

    groups: dict[str, tuple[str, ...]] = Field(description="Group → its tasks, in the order of the resource.")
    tasks: tuple[str, ...]
    affinity: tuple[tuple[float, ...], ...] = Field(
        description="Of each task with those before it in ``tasks``: the first has none, the second one."
    )
    half_width: tuple[tuple[float, ...], ...] = Field(
        description="Half the width of each interval; all of them contain the true value together in 95 %."
    )
    reasons: tuple[str, ...] = Field((), description="Why tasks are apart, or together though they hurt each other.")

    def between(self, task: str, other: str) -> tuple[float, float]:
        """Affinity and half-width of two different tasks; it is the same in both directions."""
        first, second = sorted((self.tasks.index(task), self.tasks.index(other)))
        return self.affinity[second][first], self.half_width[second][first]

    def hurting(self, task: str, among: Sequence[str]) -> tuple[str, ...]:
        """Those of ``among`` that surely hurt ``task``, the worst first: their interval lies below 0."""
        found = {other: self.between(task, other) for other in among if other != task}
        worst = sorted(found, key=lambda other: found[other][0])
        return tuple(other for other in worst if sum(found[other]) < 0)


class CheckResult(Record):
    """A task after two short runs, on its validation rows: with and without the tasks that are said to hurt it."""

    task: str
    without: tuple[str, ...]
    together: TaskPoint
    apart: TaskPoint
    rows: int = Field(description="Training rows of the task in each of the two runs, about.")

    @property
    def confirms(self) -> bool:
        """Whether the task is better without them, by score, or by loss where the scores are equal."""
        better = self.apart.score - self.together.score
        return better > 0 or (better == 0 and self.apart.loss < self.together.loss)
