"""How sure a ratio of two scores is: rows resampled in pairs, and the spread of training runs between seeds.

The log ratio log(score / mean baseline) has two sources of error. *Rows*: another test set of the same size; estimated
by 2,000 bootstrap replicates that draw the same rows for the mixture and for every seed of its baseline. *Runs*:
another seed of training; s², the variance of the score between seeds (`seed_variance`), divided by the squared score to
be that of its logarithm (delta method). The mixture is one run and the baseline a mean of n, so s² enters (1/n + 1)
times. An interval from resampled rows alone contains the true ratio in 55–66 % of cases instead of 95 %.

Each source has a quantile of its own, the normal one for rows and Student's for runs, and their squared reaches are
added (Howe 1974, JASA 69, 789-794). Welch's common quantile is narrower, and covers a
noisy task with two seeds in 88 %: by chance the seeds are alike, and then rows seem to be all that matters.
docs/results/interval-coverage.md has the simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from multitask_trainer.evaluation.metrics import Floats, RowStatistics
from multitask_trainer.evaluation.seed_variance import UNKNOWN, SeedVariance

REPLICATES = 2000
CONFIDENCE = 0.95
_LARGEST_REACH = math.log(1e6)
"""A baseline so near zero that its ratio may be anything still gets ends that are numbers."""
_BLOCK_VALUES = 4_000_000  # row weights in memory at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2


def bootstrap(sources: Sequence[RowStatistics], *, seed: int, replicates: int = REPLICATES) -> Floats:
    """(sources, replicates) scores; in one replicate every source sees the same rows, drawn with replacement.

    All sources have the same rows in the same order. Which rows are drawn depends on ``seed`` and the number of rows
    alone (a counter-based generator).
    """
    rows = len(sources[0].values)
    if any(len(source.values) != rows for source in sources):
        raise ValueError("sources of a paired bootstrap must have the same rows")
    random = np.random.Generator(np.random.Philox(key=np.asarray([seed, rows], dtype=np.uint64)))
    columns = np.concatenate([source.values for source in sources], axis=1)
    block = max(1, _BLOCK_VALUES // rows)
    totals = np.concatenate(
        [_weights(random, rows, min(block, replicates - done)) @ columns for done in range(0, replicates, block)]
    )
    ends = np.cumsum([source.values.shape[1] for source in sources])[:-1]
    parts = np.split(totals, ends, axis=1)
    return np.stack([source.finish(part) for source, part in zip(sources, parts, strict=True)])


def ratio_interval(
    score: float,
    baselines: Sequence[float],
    score_replicates: Floats,
    baseline_replicates: Floats,
    *,
    seeds: SeedVariance,
    rows: int,
    declared: bool = False,
) -> Interval:
    """The 95 % interval of score / mean(baselines), all of them positive.

    ``score_replicates`` is (replicates,), ``baseline_replicates`` (seeds, replicates). A declared baseline is a
    constant: it has no replicates of its own (they repeat it) and adds no run of its own, so s² enters once. Where the
    variance between seeds is unknown (one seed everywhere) the interval is from the rows alone, and too narrow.
    """
    smallest = 0.5 / rows  # what "no row right" counts as, so that its logarithm exists
    logs = np.log(np.maximum(score_replicates, smallest))
    logs = logs - np.log(np.maximum(baseline_replicates.mean(axis=0), smallest))
    mean = float(np.mean(baselines))
    # The logarithm is steepest at the lower of the two scores: near zero that is what covers.
    runs = 1.0 / min(score, mean) ** 2 + (0.0 if declared else 1.0 / (len(baselines) * mean**2))
    reach = min(_reach(float(logs.var(ddof=1)), seeds, runs), _LARGEST_REACH)
    centre = math.log(score / mean)
    return Interval(math.exp(centre - reach), math.exp(centre + reach))


def baseline_margin_interval(
    baselines: Sequence[float],
    constant_baseline: float,
    baseline_replicates: Floats,
    constant_replicates: Floats,
    *,
    seeds: SeedVariance,
    declared: bool = False,
) -> Interval:
    """The 95 % interval of mean(baselines) - constant_baseline: what the single-task model has learnt at all.

    The variance of a mean of n seeds is s² / n.
    """
    mean = float(np.mean(baselines))
    variance = float((baseline_replicates.mean(axis=0) - constant_replicates).var(ddof=1))
    reach = _reach(variance, seeds, 0.0 if declared else 1.0 / len(baselines))
    return Interval(mean - constant_baseline - reach, mean - constant_baseline + reach)


def advantage_interval(
    score: float, score_replicates: Floats, others: Sequence[float], other_replicates: Sequence[Floats]
) -> Interval:
    """The 95 % interval of ``score`` - the score of another model, of that one for which its lower end is lowest.

    It says which of two models that exist is better, on other rows of the same kind; so it is of the rows alone.
    Another run of training would make another model, and does not come in.
    """
    intervals = []
    for other, replicates in zip(others, other_replicates, strict=True):
        reach = _reach(float((score_replicates - replicates).var(ddof=1)), UNKNOWN, 0.0)
        intervals.append(Interval(score - other - reach, score - other + reach))
    return min(intervals, key=lambda interval: interval.low)


def _reach(row_variance: float, seeds: SeedVariance, factor: float) -> float:
    """Half of the interval: z² · row variance + t² · factor · s², under the root."""
    probability = 1 - (1 - CONFIDENCE) / 2
    square = float(special.ndtri(probability)) ** 2 * row_variance
    if seeds.degrees_of_freedom > 0:
        square += float(special.stdtrit(seeds.degrees_of_freedom, probability)) ** 2 * factor * seeds.variance
    return math.sqrt(square)


def _weights(random: np.random.Generator, rows: int, replicates: int) -> Floats:
    """(replicates, rows): how often each row was drawn."""
    drawn = random.integers(0, rows, (replicates, rows))
    drawn += np.arange(replicates)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=replicates * rows).reshape(replicates, rows).astype(np.float64)
