"""Verdicts, as a table of sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from multitask_trainer.evaluation.interval import Interval
from multitask_trainer.evaluation.verdict import TaskStatistics, decide_verdict

GOOD = TaskStatistics(
    score=0.9,
    baseline=0.9,
    ratio=1.0,
    interval=Interval(0.995, 1.005),
    constant_baseline=0.5,
    baseline_margin=Interval(0.3, 0.5),
    seeds=3,
    degrees_of_freedom=6,
)


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
    case("one seed", "Qualified", seeds=1, degrees_of_freedom=0, reason="one seed does not show"),
    case(
        "one seed, far below", "NotQualified", seeds=1, degrees_of_freedom=0, ratio=0.5, interval=Interval(0.45, 0.55)
    ),
    case("one seed while other tasks have three", "Qualified", seeds=1, degrees_of_freedom=4),
    case(
        "one seed and the lower bound",
        "Inconclusive",
        seeds=1,
        degrees_of_freedom=0,
        rule="LowerBound",
        reason="stages.baseline.seeds",
    ),
    case("declared baseline", "Qualified", seeds=0, degrees_of_freedom=6, reason="the declared score"),
    case(
        "declared baseline missed",
        "NotQualified",
        seeds=0,
        degrees_of_freedom=0,
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
    case("wide interval, ratio far below", "Inconclusive", ratio=0.5, interval=Interval(0.35, 0.65)),
    case("baseline still improving", "Inconclusive", still_improving=True, reason="stages.baseline.maxSteps"),
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
    case("no baseline", "NoBaseline", baseline=None, ratio=None, interval=None, seeds=0, reason="no baseline"),
    case("constant baseline not known", "Qualified", confirmed=True, constant_baseline=None, baseline_margin=None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_verdict(case):
    decision = decide_verdict(case.statistics, threshold=0.99, rule=case.rule)
    assert decision.verdict == case.verdict
    assert decision.confirmed is case.confirmed
    assert case.reason in decision.reason
    assert decision.reason


@pytest.mark.parametrize(("threshold", "verdict"), [(1.0, "NotQualified"), (0.95, "Qualified"), (0.97, "Qualified")])
def test_threshold_is_the_users(threshold, verdict):
    statistics = replace(GOOD, ratio=0.97, interval=Interval(0.96, 0.98))
    assert decide_verdict(statistics, threshold=threshold, rule="Point").verdict == verdict
