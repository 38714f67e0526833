"""Verdicts, as a table of sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from multitask_trainer.evaluation.interval import Interval
from multitask_trainer.evaluation.overlap import Overlap
from multitask_trainer.evaluation.seed_variance import UNKNOWN, SeedVariance
from multitask_trainer.evaluation.verdict import TaskStatistics, decide_verdict

GOOD = TaskStatistics(
    score=0.9,
    baseline=0.9,
    ratio=1.0,
    interval=Interval(0.995, 1.005),
    constant_baseline=0.5,
    baseline_margin=Interval(0.3, 0.5),
    seed_scores=(0.9, 0.89, 0.91),
    seed_variance=SeedVariance(0.0001, 6),
)
ONE, DECLARED = (0.9,), ()


@dataclass(frozen=True)
class Case:
    sentence: str
    statistics: TaskStatistics
    rule: str
    verdict: str
    confirmed: bool
    reason: str


def case(sentence, verdict, *, confirmed=False, reason="", rule="Point", **changes):
    return Case(sentence, replace(GOOD, **changes), rule, verdict, confirmed, reason)


CASES = [
    case("as good as the baseline", "Qualified", confirmed=True, reason="1.0000 ≥ 0.99"),
    case("better than it", "Qualified", confirmed=True, ratio=1.2, interval=Interval(1.15, 1.25)),
    case("exactly at the threshold", "Qualified", ratio=0.99, interval=Interval(0.98, 1.0)),
    case("a hair below it", "NotQualified", ratio=0.98999, interval=Interval(0.98, 1.0), reason="0.9900 < 0.99"),
    case("above it, the interval reaching below", "Qualified", interval=Interval(0.95, 1.05)),
    case("well below it", "NotQualified", confirmed=True, ratio=0.8, interval=Interval(0.75, 0.85)),
    case("below it, the interval reaching above", "NotQualified", ratio=0.98, interval=Interval(0.95, 1.01)),
    case("lower bound above it", "Qualified", confirmed=True, rule="LowerBound", reason="lower end 0.9950 ≥ 0.99"),
    case(
        "point above it and lower bound below",
        "NotQualified",
        rule="LowerBound",
        interval=Interval(0.95, 1.05),
        reason="lower end 0.9500 < 0.99",
    ),
    case(
        "upper bound below it too",
        "NotQualified",
        confirmed=True,
        rule="LowerBound",
        ratio=0.9,
        interval=Interval(0.85, 0.95),
    ),
    case("one seed", "Qualified", seed_scores=ONE, seed_variance=UNKNOWN, reason="one seed does not show"),
    case(
        "one seed, far below",
        "NotQualified",
        seed_scores=ONE,
        seed_variance=UNKNOWN,
        ratio=0.5,
        interval=Interval(0.45, 0.55),
    ),
    case("one seed while other tasks have three", "Qualified", seed_scores=ONE),
    case(
        "one seed and the lower bound",
        "Inconclusive",
        seed_scores=ONE,
        seed_variance=UNKNOWN,
        rule="LowerBound",
        reason="stages.baseline.seeds",
    ),
    case("declared baseline", "Qualified", seed_scores=DECLARED, reason="the declared score"),
    case(
        "declared baseline missed",
        "NotQualified",
        seed_scores=DECLARED,
        seed_variance=UNKNOWN,
        reason="a declared score has no seeds",
        ratio=0.9,
        interval=Interval(0.88, 0.92),
    ),
    case(
        "baseline no better than the majority label",
        "Inconclusive",
        baseline_margin=Interval(-0.01, 0.1),
        reason="not surely better than always giving the best constant answer",
    ),
    case("margin that may be exactly nothing", "Inconclusive", baseline_margin=Interval(0.0, 0.1)),
    case("margin that is small and sure", "Qualified", confirmed=True, baseline_margin=Interval(0.001, 0.1)),
    case("half-width just under a tenth", "Qualified", interval=Interval(0.901, 1.1)),
    case("half-width above a tenth", "Inconclusive", interval=Interval(0.89, 1.12), reason="±0.115"),
    case("wide interval, all of it below", "NotQualified", confirmed=True, ratio=0.5, interval=Interval(0.35, 0.65)),
    case("wide interval, all of it above", "Qualified", confirmed=True, ratio=1.3, interval=Interval(1.18, 1.42)),
    case(
        "wide interval that ends at the threshold",
        "Qualified",
        ratio=1.2,
        interval=Interval(0.99, 1.41),
        confirmed=True,
    ),
    case("wide interval, the threshold just inside", "Inconclusive", ratio=1.2, interval=Interval(0.98, 1.41)),
    case("baseline still improving", "Inconclusive", still_improving=True, reason="stages.baseline.maxSteps"),
    case(
        "still improving, and what it reached is surely reached",
        "Qualified",
        still_improving=True,
        ratio=1.31,
        interval=Interval(1.2, 1.4),
        reason="not confirmed: the single-task model was still improving",
    ),
    case(
        "still improving, and not surely reached", "Inconclusive", still_improving=True, interval=Interval(0.999, 1.1)
    ),
    case(
        "still improving and far below", "Inconclusive", still_improving=True, ratio=0.5, interval=Interval(0.45, 0.55)
    ),
    case(
        "baseline of zero",
        "Inconclusive",
        baseline=0.0,
        ratio=None,
        interval=None,
        baseline_margin=Interval(0.1, 0.2),
        reason="a ratio to that means nothing",
    ),
    case(
        "negative baseline",
        "Inconclusive",
        baseline=-0.1,
        ratio=None,
        interval=None,
        baseline_margin=Interval(-0.2, 0.0),
    ),
    case(
        "score of zero",
        "NotQualified",
        score=0.0,
        ratio=None,
        interval=None,
        reason="nothing of the baseline is reached",
    ),
    case("negative score", "NotQualified", score=-0.2, ratio=None, interval=None),
    case(
        "no baseline",
        "NoBaseline",
        baseline=None,
        ratio=None,
        interval=None,
        seed_scores=DECLARED,
        reason="no baseline",
    ),
    case("constant baseline not known", "Qualified", confirmed=True, constant_baseline=None, baseline_margin=None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_verdict(case):
    decision = decide_verdict(case.statistics, threshold=0.99, rule=case.rule)
    assert decision.verdict == case.verdict
    assert decision.confirmed is case.confirmed
    assert case.reason in decision.reason
    assert decision.reason


CAUSES = [
    ("qualified", {}, "Qualified"),
    ("below", {"ratio": 0.8, "interval": Interval(0.75, 0.85)}, "BelowThreshold"),
    ("at the floor", {"baseline_margin": Interval(-0.01, 0.1)}, "BaselineAtFloor"),
    ("improving", {"still_improving": True}, "BaselineStillImproving"),
    ("wide", {"interval": Interval(0.8, 1.2)}, "IntervalTooWide"),
    ("no baseline", {"baseline": None}, "NoBaseline"),
]


@pytest.mark.parametrize(("sentence", "changes", "cause"), CAUSES, ids=[row[0] for row in CAUSES])
def test_the_reason_as_one_word(sentence, changes, cause):
    assert decide_verdict(replace(GOOD, **changes), threshold=0.99, rule="Point").cause == cause


OVERLAPS = [
    ("none", Overlap(0, 160), True, ""),
    ("one in a hundred", Overlap(1, 100), True, ""),
    ("left out", Overlap(85, 160), True, "; judged by the other 75: 85 of 160 test rows are also in a train split"),
    ("too many", Overlap(120, 160), False, "the other 40 are too few to judge by (fewer than 50); not confirmed"),
]


@pytest.mark.parametrize(("sentence", "overlap", "confirmed", "reason"), OVERLAPS, ids=[row[0] for row in OVERLAPS])
def test_leaked_rows_stand_in_the_reason_and_confirm_nothing(sentence, overlap, confirmed, reason):
    decision = decide_verdict(GOOD, threshold=0.99, rule="Point", overlap=overlap)
    assert decision.verdict == "Qualified"
    assert decision.confirmed is confirmed
    assert reason in decision.reason


@pytest.mark.parametrize("changes", [{}, {"still_improving": True}, {"interval": Interval(0.8, 1.2)}])
def test_with_every_row_leaked_the_verdict_is_open_for_that_reason(changes):
    decision = decide_verdict(replace(GOOD, **changes), threshold=0.99, rule="Point", overlap=Overlap(160, 160))
    assert (decision.verdict, decision.cause, decision.confirmed) == ("Inconclusive", "LeakedTestRows", False)


@pytest.mark.parametrize(("threshold", "verdict"), [(1.0, "NotQualified"), (0.95, "Qualified"), (0.97, "Qualified")])
def test_threshold_is_the_users(threshold, verdict):
    statistics = replace(GOOD, ratio=0.97, interval=Interval(0.96, 0.98))
    assert decide_verdict(statistics, threshold=threshold, rule="Point").verdict == verdict
