"""Intervals over seeds, and the sentence that they allow."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from multitask_operator.study.conclusion import Comparison, conclusion, more_seeds
from multitask_operator.study.statistics import (
    Difference,
    mean_sd,
    paired_difference,
    rows_needed,
    seeds_needed,
    student_quantile,
)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 15, 40])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.9917, 0.9999])
def test_the_quantile_is_student_s(probability, freedom):
    assert student_quantile(probability, freedom) == pytest.approx(
        stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_there_is_no_other_quantile(probability, freedom):
    with pytest.raises(ValueError, match="no quantile"):
        student_quantile(probability, freedom)


def test_a_paired_difference_has_student_s_interval():
    values = [0.02, 0.03, 0.01, 0.04]
    found = paired_difference(values)
    low, high = stats.t.interval(0.95, 3, loc=0.025, scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.025, low, high))
    assert found.excludes_zero


def test_several_comparisons_hold_together():
    values = [0.02, 0.03, 0.01, 0.04]
    alone, of_three = paired_difference(values), paired_difference(values, comparisons=3)
    assert alone.low is not None
    assert of_three.low is not None
    reach = stats.t.ppf(1 - 0.05 / 3 / 2, 3) * stats.sem(values)
    assert of_three.low == pytest.approx(0.025 - reach)
    assert of_three.low < alone.low


def test_seeds_without_a_spread_give_no_interval():
    for values in ([0.5], [0.5, 0.5, 0.5]):
        found = paired_difference(values)
        assert found == Difference(0.5)
        assert not found.excludes_zero


def test_equal_differences_with_other_rounding_have_no_interval():
    pairs = ((0.80, 0.75), (0.85, 0.80), (0.90, 0.85))
    assert paired_difference([high - low for high, low in pairs]).low is None


def test_mean_and_deviation():
    assert mean_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_sd([1.0]) == (1.0, None)


ABOVE, BELOW = Difference(0.02, 0.01, 0.03), Difference(-0.02, -0.035, -0.005)
OPEN, UNKNOWN = Difference(0.02, -0.01, 0.05), Difference(0.02)
SENTENCES = [
    ([Comparison("b", 3, OPEN)], 4, "No difference is supported: the interval of the difference to a contains 0"),
    ([Comparison("b", 3, OPEN), Comparison("c", 4, OPEN)], 4, "No difference is supported: the interval of every diff"),
    (
        [Comparison("b", 3, UNKNOWN)],
        4,
        "No difference is supported: every seed gives b the same difference to a, so there is no interval.",
    ),
    (
        [Comparison("b", 3, OPEN), Comparison("c", 3, UNKNOWN)],
        4,
        "the interval of the difference of b to a contains 0; every seed gives c the same difference to a, so",
    ),
    ([Comparison("b", 3, ABOVE)], 4, "Supported: b is above a by 0.020 (0.010 to 0.030)."),
    ([Comparison("b", 3, BELOW)], 4, "Supported: b is below a by 0.020 (0.005 to 0.035)."),
    (
        [Comparison("b", 3, ABOVE), Comparison("c", 3, OPEN), Comparison("d", 2, ABOVE)],
        4,
        "Supported: b is above a by 0.020 (0.010 to 0.030); of c and d no difference is supported.",
    ),
    ([Comparison("b", 3, ABOVE), Comparison("c", 3, BELOW)], 4, "(0.010 to 0.030); c is below a by 0.020"),
    (
        [Comparison("b", 2, ABOVE)],
        4,
        "No difference is supported: no arm has finished 3 seeds that a has finished too.",
    ),
    ([], 4, "Nothing is compared: all arms come to the same training."),
    (
        [Comparison("b", 3, ABOVE, equal_rows=False)],
        4,
        "Nothing is supported: no arm was trained on as many rows as a.",
    ),
    (
        [Comparison("b", 3, ABOVE)],
        0,
        "Nothing is supported: no task has a baseline of a that arms can be compared by (x: no baseline; y: at 0).",
    ),
    ([Comparison("b", 0, None)], 4, "Nothing is supported: no arm has a finished run of the same seed as a."),
    (
        [Comparison("b", 3, ABOVE, equal_rows=False), Comparison("c", 3, ABOVE)],
        4,
        "Supported: c is above a by 0.020 (0.010 to 0.030); of b no difference is supported.",
    ),
]


@pytest.mark.parametrize(("comparisons", "judged", "sentence"), SENTENCES)
def test_the_sentence_says_what_the_intervals_allow(comparisons, judged, sentence):
    found = conclusion("a", comparisons, judged, seeds=4, left_out=["x: no baseline", "y: at 0"])
    assert sentence in found
    assert found.count(". ") == 0, "one sentence"
    assert found.endswith(".")


def test_an_open_difference_says_how_many_seeds_it_would_take():
    values = [0.02, 0.03, -0.005]
    found = paired_difference(values)
    count = seeds_needed(found, 3, 1, 16)
    assert count is not None

    def low(seeds):
        return stats.t.interval(0.95, seeds - 1, loc=0.015, scale=stats.tstd(values) / math.sqrt(seeds))[0]

    assert low(count - 1) <= 0 < low(count)
    assert seeds_needed(found, 3, 1, count - 1) is None
    (text,) = more_seeds([Comparison("b", 3, found)])
    assert f"about {count} seeds are needed: set seeds: {count} in the study and run it again; " in text
    (text,) = more_seeds([Comparison("b", 3, paired_difference([0.02, -0.03, 0.005]))])
    assert "more than 16 seeds are needed" in text
    assert list(more_seeds([Comparison("b", 3, ABOVE), Comparison("c", 2, OPEN)])) == []


def test_the_rows_that_tell_two_scores_apart():
    rows = rows_needed(0.7, 0.6)
    assert rows is not None
    scale = math.sqrt((0.7 * 0.4 + 0.6 * 0.3 - 0.1**2) / rows)
    assert stats.norm.interval(0.95, loc=0.1, scale=scale)[0] == pytest.approx(0, abs=1e-3)
    assert rows_needed(0.6, 0.6) is None


def test_a_difference_of_luck_is_rarely_supported():
    """Arms that do not differ: of the studies with three comparisons at most one in twenty supports a difference."""
    random = stats.norm(scale=0.02).rvs(size=(2000, 3, 3), random_state=7)
    supported = sum(
        any(paired_difference(list(seeds), comparisons=3).excludes_zero for seeds in arms) for arms in random
    )
    assert supported / len(random) < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / len(random))
