"""The one sentence that says what a study supports. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multitask_operator.formatting import listed
from multitask_operator.study.spec import MOST_SEEDS
from multitask_operator.study.statistics import Difference, seeds_needed

FEWEST_SEEDS = 3
"""Fewer do not show how much runs vary: with two, an interval reaches nine standard deviations to each side."""


@dataclass(frozen=True)
class Comparison:
    """An arm against the reference: over how many seeds that both have finished, and with which difference.

    ``equal_rows``: whether both were trained on as many rows.
    """

    arm: str
    seeds: int
    difference: Difference | None
    equal_rows: bool = True

    @property
    def is_open(self) -> bool:
        """It has seeds enough and an interval, which contains 0."""
        found = self.difference
        enough = self.equal_rows and self.seeds >= FEWEST_SEEDS
        return enough and found is not None and found.low is not None and not found.excludes_zero

    @property
    def has_no_spread(self) -> bool:
        """Several seeds give the same difference, so there is no interval."""
        return self.seeds > 1 and self.difference is not None and self.difference.low is None


def conclusion(
    reference: str, comparisons: Sequence[Comparison], judged_tasks: int, *, seeds: int, left_out: Sequence[str] = ()
) -> str:
    """What the differences in the mean ratio support: which arms are above or below the reference, if any.

    ``seeds``: those of each arm, finished or not; ``left_out``: why tasks are not judged, a text for each reason.
    """
    if not comparisons:
        return "Nothing is compared: all arms come to the same training."
    compared = [item for item in comparisons if item.difference is not None and item.seeds]
    if not compared:
        return f"Nothing is supported: no arm has a finished run of the same seed as {reference}."
    if not judged_tasks:
        why = f" ({'; '.join(left_out)})" if left_out else ""
        return f"Nothing is supported: no task has a baseline of {reference} that arms can be compared by{why}."
    fair = [item for item in compared if item.equal_rows]
    if not fair:
        return f"Nothing is supported: no arm was trained on as many rows as {reference}."
    enough = [item for item in fair if item.seeds >= FEWEST_SEEDS]
    if not enough:
        return f"No difference is supported: {_too_few(seeds, reference)}."
    supported = [item for item in enough if item.difference is not None and item.difference.excludes_zero]
    if not supported:
        return f"No difference is supported: {_why_open(enough, reference)}."
    found = "; ".join(_supported(item, reference) for item in supported)
    others = [item.arm for item in comparisons if item not in supported]
    rest = f"; of {listed(others)} no difference is supported" if others else ""
    return f"Supported: {found}{rest}."


def more_seeds(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What open differences take to be supported, where they are as large as they were measured."""
    needed: dict[int | None, list[str]] = {}
    for item in comparisons:
        if item.is_open and item.difference is not None:
            count = seeds_needed(item.difference, item.seeds, len(comparisons), MOST_SEEDS)
            needed.setdefault(count, []).append(item.arm)
    for count, arms in needed.items():
        of = f"to support a difference of {listed(arms)} as large as the measured one"
        if count is None:
            yield f"{of}, more than {MOST_SEEDS} seeds are needed, the most there can be: give the tasks more test rows"
        else:
            yield (
                f"{of}, about {count} seeds are needed: set seeds: {count} in the study and run it again; "
                "its intervals are then of a second look, and hold with less than 95 %"
            )
    equal = [item.arm for item in comparisons if item.seeds >= FEWEST_SEEDS and item.has_no_spread]
    if equal:
        yield f"{listed(equal)}: seeds that all give the same difference show no spread; give the tasks more test rows"


def _too_few(seeds: int, reference: str) -> str:
    if seeds < FEWEST_SEEDS:
        return f"fewer than {FEWEST_SEEDS} seeds do not show how much runs vary, so set seeds to {FEWEST_SEEDS} or more"
    return f"no arm has finished {FEWEST_SEEDS} seeds that {reference} has finished too"


def _why_open(compared: Sequence[Comparison], reference: str) -> str:
    """Of arms without a supported difference: which intervals contain 0, and which arms have no interval."""
    known = [item.arm for item in compared if item.is_open]
    unknown = [item.arm for item in compared if not item.is_open]
    if known and unknown:
        which = f"the difference of {listed(known)}"
    else:
        which = "the difference" if len(known) == 1 else "every difference"
    reasons = [f"the interval of {which} to {reference} contains 0"] if known else []
    if unknown:
        # Scores of few rows take few values, so differences can be equal by chance.
        reasons.append(
            f"every seed gives {listed(unknown)} the same difference to {reference}, so there is no interval"
        )
    return "; ".join(reasons)


def _supported(item: Comparison, reference: str) -> str:
    difference = item.difference
    if difference is None or difference.low is None or difference.high is None:
        raise ValueError(f"{item.arm} has no interval")
    side = "above" if difference.value > 0 else "below"
    ends = sorted((abs(difference.low), abs(difference.high)))
    return f"{item.arm} is {side} {reference} by {abs(difference.value):.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
