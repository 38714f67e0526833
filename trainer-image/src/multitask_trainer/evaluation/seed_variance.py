"""How much a task's score varies from one training run to the next, from few seeds: its own, helped by the suite's.

Two to five seeds tell little about a variance, and the other tasks of the suite were trained alike. So a task's own
variance s_i² with d_i = n_i - 1 degrees of freedom is moved towards the typical one of the others, s_0², as in
empirical Bayes (Smyth 2004, https://doi.org/10.2202/1544-6115.1027):

    s̃_i² = (d_0 s_0² + d_i s_i²) / (d_0 + d_i),   with d_0 + d_i degrees of freedom

Two things differ from the textbook, so that a noisy task neither widens the others' intervals nor gets too narrow a one
itself. s_0² is a median, which a few noisy tasks do not move. And only what is alike is pooled: d_0 = d_i / 3, but 0
for a task whose variance the suite's makes improbable (an F test); compare Phipson et al. 2016,
https://doi.org/10.1214/16-AOAS920. With a larger d_0 the interval of a noisy task with two seeds covers less than 93 %.

Variances are of scores, not of their logarithms: a metric that comes near zero has a logarithm that explodes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np
from scipy import special

SUITE_WEIGHT = 1 / 3
"""Degrees of freedom that the suite adds, for each of the task's own."""
IMPROBABLY_LARGE = 0.10
IMPROBABLY_SMALL = 0.02
"""Tail probabilities of the F test. The lower one is smaller: an interval that is too wide errs on the safe side."""


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a task's score between training runs, and the degrees of freedom behind it (0: not known)."""

    variance: float
    degrees_of_freedom: float


UNKNOWN = SeedVariance(0.0, 0.0)
"""No task of the suite has a second seed."""


def moderated_seed_variance(own: Sequence[float], others: Collection[Sequence[float]]) -> SeedVariance:
    """s̃² of the task whose seeds scored ``own``; ``others`` are the scores of the other tasks' seeds.

    A task with fewer than two seeds gets s_0² with the degrees of freedom of a typical task.
    """
    spreads = [(float(np.var(task, ddof=1)), len(task) - 1) for task in others if len(task) > 1]
    freedom = max(0, len(own) - 1)
    variance = float(np.var(own, ddof=1)) if freedom else 0.0
    if not spreads:
        return SeedVariance(variance, freedom) if freedom else UNKNOWN
    typical = _typical_variance(spreads)
    if not freedom:
        return SeedVariance(typical, median_low(degrees for _, degrees in spreads))
    if not _is_alike(variance, freedom, typical, sum(degrees for _, degrees in spreads)):
        return SeedVariance(variance, freedom)
    added = SUITE_WEIGHT * freedom
    return SeedVariance((added * typical + freedom * variance) / (added + freedom), added + freedom)


def _typical_variance(spreads: Sequence[tuple[float, int]]) -> float:
    """The median over tasks of the variance, each divided by the median of χ²_d / d, which it is in the middle.

    Of an even number the lower one, so that of two other tasks the noisy one does not count.
    """
    return median_low(variance * degrees / float(special.chdtri(degrees, 0.5)) for variance, degrees in spreads)


def _is_alike(variance: float, freedom: int, typical: float, others: int) -> bool:
    """Whether tasks like the others show such a variance. Seeds with equal scores are a tie, which says nothing."""
    if variance == 0:
        return True
    if typical == 0:
        return False
    larger = float(special.fdtrc(freedom, others, variance / typical))
    return IMPROBABLY_LARGE <= larger <= 1 - IMPROBABLY_SMALL
