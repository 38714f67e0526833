"""Means over seeds, and how sure a difference between two arms is. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
_NO_SPREAD = 1e-9
"""Below it a standard deviation of differences of ratios is rounding: equal differences rarely have equal bits."""
_NORMAL_REACH = statistics.NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of a difference; ``low`` and ``high``: its interval, None where seeds cannot tell."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known, and lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n − 1); None with fewer than two values."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(differences: Sequence[float], comparisons: int = 1) -> Difference:
    """The mean of ``differences``, one for each seed, with Student's interval.

    All of ``comparisons`` intervals together hold with 95 % (Bonferroni): each has a confidence of 1 − 0.05 /
    ``comparisons``. Without any spread between seeds, or with one seed, there is no interval: scores of few rows are
    equal by chance. Raises ValueError without differences.
    """
    value, deviation = mean_sd(differences)
    if deviation is None or deviation < _NO_SPREAD:
        return Difference(value)
    freedom = len(differences) - 1
    reach = student_quantile(1 - (1 - CONFIDENCE) / comparisons / 2, freedom) * deviation / math.sqrt(len(differences))
    return Difference(value, value - reach, value + reach)


def seeds_needed(found: Difference, seeds: int, comparisons: int, most: int) -> int | None:
    """How many seeds would take 0 out of an interval of `paired_difference`, if mean and deviation stay as they are.

    ``found`` is that of ``seeds`` seeds. None: more than ``most``. Raises ValueError without an interval.
    """
    if found.high is None:
        raise ValueError("without an interval there is no deviation")
    probability = 1 - (1 - CONFIDENCE) / comparisons / 2
    deviation = (found.high - found.value) * math.sqrt(seeds) / student_quantile(probability, seeds - 1)
    for count in range(seeds, most + 1):
        if student_quantile(probability, count - 1) * deviation / math.sqrt(count) < abs(found.value):
            return count
    return None


def rows_needed(score: float, other: float) -> int | None:
    """About how many rows tell two mean scores in [0, 1] apart with 95 %; None if the first is not the higher one.

    By the normal distribution, as if each row had 0 or 1 and the two were independent of each other.
    """
    difference = score - other
    if difference <= 0:
        return None
    variance = score * (1 - other) + other * (1 - score) - difference**2
    return math.ceil((_NORMAL_REACH / difference) ** 2 * max(variance, 0.0))


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution for a ``probability`` in [0.5, 1) and whole degrees of freedom.

    By bisection of the distribution function, whose series are those of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"no quantile of {probability} with {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while student_distribution(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        below = student_distribution(middle, freedom) < probability
        low, high = (middle, high) if below else (low, middle)
    return high


def student_distribution(t: float, freedom: int) -> float:
    """P(T ≤ t) for t ≥ 0."""
    theta = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(theta)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    inside = 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return (1 + inside) / 2
