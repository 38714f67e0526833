"""From the figures of one task to its verdict. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multitask_api.stage_io.results import Verdict
from multitask_trainer.judging.interval import Interval

Rule = Literal["Point", "LowerBound"]

WIDEST = 0.10
"""A ratio whose interval reaches further than this to either side decides nothing."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one task. ``baseline`` is the mean over seeds, or the declared score."""

    score: float
    baseline: float | None
    ratio: float | None = None
    interval: Interval | None = None
    floor: float | None = None
    lead: Interval | None = None
    """The interval of baseline - floor."""
    seeds: int = 0
    """Seeds of the baseline; 0 for a declared one."""
    degrees_of_freedom: int = 0
    still_improving: bool = False


@dataclass(frozen=True)
class Judgement:
    """The verdict, whether the whole interval lies on its side, and why."""

    verdict: Verdict
    confirmed: bool
    reason: str


def judge(evidence: Evidence, *, threshold: float, rule: Rule) -> Judgement:
    """The verdict as section "Qualification" of the design has it; what speaks against judging at all comes first."""
    if evidence.baseline is None:
        return Judgement("NoBaseline", confirmed=False, reason="no baseline was trained or declared to compare with")
    doubt = _doubt(evidence, evidence.baseline, rule)
    if doubt is not None:
        return Judgement("Inconclusive", confirmed=False, reason=doubt)
    ratio, interval = evidence.ratio, evidence.interval
    if ratio is None or interval is None:  # a score of nothing against a baseline that is above its floor
        reason = f"score {evidence.score:.4f} against {evidence.baseline:.4f}: nothing of the baseline is reached"
        return Judgement("NotQualified", confirmed=False, reason=reason)
    measured = ratio if rule == "Point" else interval.low
    qualified = measured >= threshold
    sure = interval.low >= threshold if qualified else interval.high < threshold
    return Judgement(
        "Qualified" if qualified else "NotQualified",
        confirmed=sure and evidence.degrees_of_freedom > 0 and evidence.seeds > 1,
        reason=_reason(evidence, ratio, interval, threshold, rule, qualified=qualified),
    )


def _doubt(evidence: Evidence, baseline: float, rule: Rule) -> str | None:
    """Why the task cannot be judged, or None."""
    if evidence.floor is not None and evidence.lead is not None and evidence.lead.low <= 0:
        return (
            f"the single-task model ({baseline:.4f}) is not surely better than always giving the best constant answer "
            f"({evidence.floor:.4f}): their difference may be as low as {evidence.lead.low:.4f}"
        )
    if baseline <= 0:
        return f"the single-task model scores {baseline:.4f}, and a ratio to that means nothing"
    if evidence.still_improving:
        return "the single-task model was still improving when its step limit ended it; raise stages.baseline.maxSteps"
    if evidence.interval is not None and evidence.interval.half_width > WIDEST:
        return (
            f"the ratio is known to ±{evidence.interval.half_width:.3f} only, and ±{WIDEST:.2f} is the most that can "
            "be judged; more test rows or more seeds narrow it"
        )
    if rule == "LowerBound" and evidence.degrees_of_freedom == 0:
        return "rule LowerBound needs the spread between seeds; set stages.baseline.seeds to 2 or more"
    return None


def _reason(
    evidence: Evidence, ratio: float, interval: Interval, threshold: float, rule: Rule, *, qualified: bool
) -> str:
    against = "the declared score" if evidence.seeds == 0 else f"the mean of {evidence.seeds} single-task seed(s)"
    text = f"{evidence.score:.4f} is {ratio:.4f} of {against}, {evidence.baseline:.4f}; "
    if rule == "Point":
        text += f"{ratio:.4f} {'≥' if qualified else '<'} {threshold}"
    else:
        text += f"the interval's lower end {interval.low:.4f} {'≥' if qualified else '<'} {threshold}"
    if evidence.seeds == 0:
        text += "; not confirmed: a declared score has no seeds to vary"
    elif evidence.degrees_of_freedom == 0 or evidence.seeds == 1:
        text += "; not confirmed: one seed does not show how much a single-task model varies"
    return text


def still_qualified(
    ratio: float, interval: tuple[float, float], change: float, *, threshold: float, rule: Rule
) -> bool:
    """Whether a qualified task stays so when its score is ``change`` times what was judged (weights were merged)."""
    return (ratio if rule == "Point" else interval[0]) * change >= threshold
