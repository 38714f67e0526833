"""From the figures of one task to its verdict. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multitask_api.stage_io.results import Verdict
from multitask_trainer.evaluation.interval import Interval

Rule = Literal["Point", "LowerBound"]

MAX_HALF_WIDTH = 0.10
"""A ratio whose interval has a larger half-width is too uncertain for a verdict."""


@dataclass(frozen=True)
class TaskStatistics:
    """What a verdict rests on. ``baseline`` is the mean over seeds, or the declared score.

    ``constant_baseline`` is the score of the best constant answer (`floor` in the results).
    """

    score: float
    baseline: float | None
    ratio: float | None = None
    interval: Interval | None = None
    constant_baseline: float | None = None
    baseline_margin: Interval | None = None
    """The interval of baseline - constant_baseline."""
    seeds: int = 0
    """Seeds of the baseline; 0 for a declared one."""
    degrees_of_freedom: float = 0.0
    """Behind the variance between seeds; 0 if that is not known."""
    still_improving: bool = False


@dataclass(frozen=True)
class VerdictDecision:
    """The verdict, the reason for it, and whether the whole interval is on its side (``confirmed``)."""

    verdict: Verdict
    confirmed: bool
    reason: str


def decide_verdict(task: TaskStatistics, *, threshold: float, rule: Rule) -> VerdictDecision:
    """The verdict by the task's ratio to its baseline; what makes the ratio inconclusive comes first."""
    if task.baseline is None:
        return VerdictDecision(
            "NoBaseline", confirmed=False, reason="no baseline was trained or declared to compare with"
        )
    inconclusive = _inconclusive_reason(task, task.baseline, rule)
    if inconclusive is not None:
        return VerdictDecision("Inconclusive", confirmed=False, reason=inconclusive)
    ratio, interval = task.ratio, task.interval
    if ratio is None or interval is None:  # a score that is not positive, and a baseline above the constant answer
        reason = f"score {task.score:.4f} against {task.baseline:.4f}: nothing of the baseline is reached"
        return VerdictDecision("NotQualified", confirmed=False, reason=reason)
    measured = ratio if rule == "Point" else interval.low
    qualified = measured >= threshold
    confirmed = interval.low >= threshold if qualified else interval.high < threshold
    return VerdictDecision(
        "Qualified" if qualified else "NotQualified",
        confirmed=confirmed and task.degrees_of_freedom > 0 and task.seeds > 1,
        reason=_verdict_reason(task, ratio, interval, threshold, rule, qualified=qualified),
    )


def _inconclusive_reason(task: TaskStatistics, baseline: float, rule: Rule) -> str | None:
    """Why the figures do not allow a verdict, or None."""
    if task.constant_baseline is not None and task.baseline_margin is not None and task.baseline_margin.low <= 0:
        return (
            f"the single-task model ({baseline:.4f}) is not surely better than always giving the best constant answer "
            f"({task.constant_baseline:.4f}): their difference may be as low as {task.baseline_margin.low:.4f}"
        )
    if baseline <= 0:
        return f"the single-task model scores {baseline:.4f}, and a ratio to that means nothing"
    if task.still_improving:
        return "the single-task model was still improving when its step limit ended it; raise stages.baseline.maxSteps"
    if task.interval is not None and task.interval.half_width > MAX_HALF_WIDTH:
        return (
            f"the ratio is known to ±{task.interval.half_width:.3f} only, and ±{MAX_HALF_WIDTH:.2f} is the most that "
            "can be judged; more test rows or more seeds narrow it"
        )
    if rule == "LowerBound" and task.degrees_of_freedom == 0:
        return "rule LowerBound needs the spread between seeds; set stages.baseline.seeds to 2 or more"
    return None


def _verdict_reason(
    task: TaskStatistics, ratio: float, interval: Interval, threshold: float, rule: Rule, *, qualified: bool
) -> str:
    against = "the declared score" if task.seeds == 0 else f"the mean of {task.seeds} single-task seed(s)"
    text = f"{task.score:.4f} is {ratio:.4f} of {against}, {task.baseline:.4f}; "
    if rule == "Point":
        text += f"{ratio:.4f} {'≥' if qualified else '<'} {threshold}"
    else:
        text += f"the interval's lower end {interval.low:.4f} {'≥' if qualified else '<'} {threshold}"
    if task.seeds == 0:
        text += "; not confirmed: a declared score has no seeds to vary"
    elif task.degrees_of_freedom == 0 or task.seeds == 1:
        text += "; not confirmed: one seed does not show how much a single-task model varies"
    return text


def still_qualified(
    ratio: float, interval: tuple[float, float], change: float, *, threshold: float, rule: Rule
) -> bool:
    """Whether a qualified task stays so when merged weights score ``change`` times what was evaluated."""
    return (ratio if rule == "Point" else interval[0]) * change >= threshold
