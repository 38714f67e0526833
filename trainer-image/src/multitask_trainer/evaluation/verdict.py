"""From the figures of one task to its verdict. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multitask_api.stage_io.overlap import LEAKED_TEST_ROWS
from multitask_api.stage_io.results import Verdict
from multitask_trainer.evaluation.interval import Interval
from multitask_trainer.evaluation.overlap import ENOUGH_ROWS, Overlap
from multitask_trainer.evaluation.seed_variance import UNKNOWN, SeedVariance

Rule = Literal["Point", "LowerBound"]

MAX_HALF_WIDTH = 0.10
"""A ratio whose interval has a larger half-width, and the threshold inside, is too uncertain for a verdict."""
NO_OVERLAP = Overlap()


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
    advantage: Interval | None = None
    """The interval of score - the best of what else could answer."""
    seed_scores: tuple[float, ...] = ()
    """Of each seed of the baseline; none for a declared one."""
    seed_variance: SeedVariance = UNKNOWN
    still_improving: bool = False

    @property
    def has_seed_variance(self) -> bool:
        """Whether the interval has the variation between training runs in it."""
        return self.seed_variance.degrees_of_freedom > 0


@dataclass(frozen=True)
class VerdictDecision:
    """The verdict, the reason for it, and whether the whole interval is on its side (``confirmed``).

    ``cause`` is the reason as one CamelCase word.
    """

    verdict: Verdict
    confirmed: bool
    reason: str
    cause: str


def decide_verdict(
    task: TaskStatistics, *, threshold: float, rule: Rule, overlap: Overlap = NO_OVERLAP
) -> VerdictDecision:
    """The verdict by the task's ratio to its baseline; what makes the ratio inconclusive comes first.

    ``overlap`` has been left out of ``task`` if `Overlap.is_left_out`.
    """
    if task.baseline is None:
        return VerdictDecision(
            "NoBaseline",
            confirmed=False,
            reason="no baseline was trained or declared to compare with",
            cause="NoBaseline",
        )
    if overlap.is_total:
        reason = (
            f"all {overlap.test_rows:,} test rows are also in a train split: none is left to judge by; "
            "take test rows that no task is trained on"
        )
        return VerdictDecision("Inconclusive", confirmed=False, reason=reason, cause=LEAKED_TEST_ROWS)
    inconclusive = _inconclusive(task, task.baseline, threshold, rule)
    if inconclusive is not None:
        cause, reason = inconclusive
        reason += overlap_note(overlap)
        return VerdictDecision("Inconclusive", confirmed=False, reason=reason, cause=cause)
    ratio, interval = task.ratio, task.interval
    if ratio is None or interval is None:  # a score that is not positive, and a baseline above the constant answer
        reason = f"score {task.score:.4f} against {task.baseline:.4f}: nothing of the baseline is reached"
        return VerdictDecision("NotQualified", confirmed=False, reason=reason, cause="BelowThreshold")
    measured = ratio if rule == "Point" else interval.low
    qualified = measured >= threshold
    doubts = _doubts(task, overlap)
    on_one_side = interval.low >= threshold if qualified else interval.high < threshold
    reason = _verdict_reason(task, ratio, interval, threshold, rule, qualified=qualified) + overlap_note(overlap)
    return VerdictDecision(
        "Qualified" if qualified else "NotQualified",
        confirmed=on_one_side and not doubts,
        reason="; not confirmed: ".join([reason, *doubts[:1]]),
        cause="Qualified" if qualified else "BelowThreshold",
    )


def _inconclusive(task: TaskStatistics, baseline: float, threshold: float, rule: Rule) -> tuple[str, str] | None:
    """Why the figures do not allow a verdict, as one word and in a sentence; or None."""
    interval = task.interval
    if task.constant_baseline is not None and task.baseline_margin is not None and task.baseline_margin.low <= 0:
        return "BaselineAtFloor", (
            f"the single-task model ({baseline:.4f}) is not surely better than always giving the best constant answer "
            f"({task.constant_baseline:.4f}): their difference may be as low as {task.baseline_margin.low:.4f}"
        )
    if baseline <= 0:
        return "BaselineNotPositive", f"the single-task model scores {baseline:.4f}, and a ratio to that means nothing"
    # A model that surely reaches what the baseline reached has met the bar that there is.
    if task.still_improving and (interval is None or interval.low < 1):
        return "BaselineStillImproving", (
            "the single-task model was still improving when its step limit ended it; raise stages.baseline.maxSteps"
        )
    if interval is not None and interval.half_width > MAX_HALF_WIDTH and interval.low < threshold <= interval.high:
        return "IntervalTooWide", (
            f"the ratio is known to ±{interval.half_width:.3f} only, and the threshold lies within; "
            f"±{MAX_HALF_WIDTH:.2f} is the most that can be judged there; more test rows or more seeds narrow it"
        )
    if rule == "LowerBound" and not task.has_seed_variance:
        return "SeedsUnknown", "rule LowerBound needs the spread between seeds; set stages.baseline.seeds to 2 or more"
    return None


def _doubts(task: TaskStatistics, overlap: Overlap) -> list[str]:
    """Why the verdict cannot be confirmed, whatever the interval."""
    doubts = []
    if not task.seed_scores:
        doubts.append("a declared score has no seeds to vary")
    elif not task.has_seed_variance or len(task.seed_scores) == 1:
        doubts.append("one seed does not show how much a single-task model varies")
    if task.still_improving:
        doubts.append("the single-task model was still improving when its step limit ended it")
    if overlap.is_notable and not overlap.is_left_out:
        doubts.append("test rows are also in a train split")
    return doubts


def overlap_note(overlap: Overlap) -> str:
    """What to add to a reason, if more than a few test rows are in a train split."""
    if not overlap.is_notable:
        return ""
    text = f"{overlap.rows:,} of {overlap.test_rows:,} test rows are also in a train split"
    if overlap.is_left_out:
        return f"; judged by the other {overlap.kept_rows:,}: {text}"
    return f"; {text}, and the other {overlap.kept_rows:,} are too few to judge by (fewer than {ENOUGH_ROWS})"


def _verdict_reason(
    task: TaskStatistics, ratio: float, interval: Interval, threshold: float, rule: Rule, *, qualified: bool
) -> str:
    seeds = len(task.seed_scores)
    against = f"the mean of {seeds} single-task seed{'s' if seeds > 1 else ''}" if seeds else "the declared score"
    text = f"{task.score:.4f} is {ratio:.4f} of {against}, {task.baseline:.4f}; "
    if rule == "Point":
        return text + f"{ratio:.4f} {'≥' if qualified else '<'} {threshold}"
    return text + f"the interval's lower end {interval.low:.4f} {'≥' if qualified else '<'} {threshold}"


def still_qualified(
    ratio: float, interval: tuple[float, float], change: float, *, threshold: float, rule: Rule
) -> bool:
    """Whether a qualified task stays so when merged weights score ``change`` times what was evaluated."""
    return (ratio if rule == "Point" else interval[0]) * change >= threshold
