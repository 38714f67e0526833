"""The one sentence that says what a study supports. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multitask_operator.formatting import listed
from multitask_operator.study.statistics import Difference

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


def conclusion(reference: str, comparisons: Sequence[Comparison], judged_tasks: int) -> str:
    """What the differences in the mean ratio support: which arms are above or below the reference, if any."""
    if not comparisons:
        return "Nothing is compared: all arms come to the same training."
    compared = [item for item in comparisons if item.difference is not None and item.seeds]
    if not compared:
        return f"Nothing is supported: no arm has a finished run of the same seed as {reference}."
    if not judged_tasks:
        return f"Nothing is supported: no task has a baseline of {reference} that arms can be compared by."
    fair = [item for item in compared if item.equal_rows]
    if not fair:
        return f"Nothing is supported: no arm was trained on as many rows as {reference}."
    enough = [item for item in fair if item.seeds >= FEWEST_SEEDS]
    if not enough:
        return f"No difference is supported: fewer than {FEWEST_SEEDS} seeds do not show how much runs vary."
    supported = [item for item in enough if item.difference is not None and item.difference.excludes_zero]
    if not supported:
        return f"No difference is supported: {_why_open(enough, reference)}."
    found = "; ".join(_supported(item, reference) for item in supported)
    others = [item.arm for item in comparisons if item not in supported]
    rest = f"; of {listed(others)} no difference is supported" if others else ""
    return f"Supported: {found}{rest}."


def _why_open(compared: Sequence[Comparison], reference: str) -> str:
    """Of arms without a supported difference: which intervals contain 0, and which arms have no interval."""
    unknown = [item.arm for item in compared if item.difference is None or item.difference.low is None]
    known = len(compared) - len(unknown)
    which = "the difference" if known == 1 else "every difference"
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
