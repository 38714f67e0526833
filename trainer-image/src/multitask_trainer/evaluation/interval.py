"""How sure a ratio of two scores is: rows resampled in pairs, and the spread of training runs between seeds.

The log ratio log(score / mean baseline) has two sources of error. *Rows*: another test set of the same size; estimated
by 2,000 bootstrap replicates that draw the same rows for the mixture and for every seed of its baseline. *Runs*:
another seed of training; s², the variance of log scores between the seeds of one task, pooled over all tasks. The
mixture is one run and the baseline a mean of n, so s² enters (1/n + 1) times. An interval
from resampled rows alone contains the true ratio in 55–66 % of cases instead of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from multitask_trainer.evaluation.metrics import Floats, RowStatistics

REPLICATES = 2000
CONFIDENCE = 0.95
_BLOCK_VALUES = 4_000_000  # row weights in memory at once: 32 MB


@dataclass(frozen=True)
class SeedVariance:
    """s², the variance of the log score between seeds, and the degrees of freedom behind it (0: not known)."""

    variance: float | None
    degrees_of_freedom: int


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2


def pooled_seed_variance(scores: Collection[Sequence[float]]) -> SeedVariance:
    """s² = Σ_i Σ_j (log b_ij - mean_i)² / Σ_i (n_i - 1) over tasks i with seeds j.

    Tasks with a score that is not positive have no logarithm and are left out.
    """
    usable = [np.log(task) for task in scores if len(task) > 1 and min(task) > 0]
    freedom = sum(len(logs) - 1 for logs in usable)
    if freedom == 0:
        return SeedVariance(None, 0)
    squares = sum(float(((logs - logs.mean()) ** 2).sum()) for logs in usable)
    return SeedVariance(squares / freedom, freedom)


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
    constant: it has no replicates of its own (they repeat it) and adds no run of its own, so s² enters once. Without
    degrees of freedom (one seed everywhere) the interval is from the rows alone, and too narrow.
    """
    smallest = 0.5 / rows  # what "no row right" counts as, so that its logarithm exists
    logs = np.log(np.maximum(score_replicates, smallest))
    logs = logs - np.log(np.maximum(baseline_replicates.mean(axis=0), smallest))
    variance = float(logs.var(ddof=1))
    if seeds.variance is not None:
        variance += seeds.variance * (1.0 if declared else 1.0 / len(baselines) + 1.0)
    centre = math.log(score / float(np.mean(baselines)))
    reach = _quantile(seeds) * math.sqrt(variance)
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

    s² is of log scores; the variance of a mean score b of n seeds is b² s² / n (delta method).
    """
    mean = float(np.mean(baselines))
    variance = float((baseline_replicates.mean(axis=0) - constant_replicates).var(ddof=1))
    if seeds.variance is not None and not declared:
        variance += mean**2 * seeds.variance / len(baselines)
    reach = _quantile(seeds) * math.sqrt(variance)
    return Interval(mean - constant_baseline - reach, mean - constant_baseline + reach)


def _quantile(seeds: SeedVariance) -> float:
    probability = 1 - (1 - CONFIDENCE) / 2
    if seeds.degrees_of_freedom == 0:
        return float(stats.norm.ppf(probability))
    return float(stats.t.ppf(probability, seeds.degrees_of_freedom))


def _weights(random: np.random.Generator, rows: int, replicates: int) -> Floats:
    """(replicates, rows): how often each row was drawn."""
    drawn = random.integers(0, rows, (replicates, rows))
    drawn += np.arange(replicates)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=replicates * rows).reshape(replicates, rows).astype(np.float64)
