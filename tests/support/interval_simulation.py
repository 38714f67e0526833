"""Suites of tasks with known ratios, to count how often the interval of the ratio contains them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from multitask_trainer.evaluation.interval import Interval, bootstrap, ratio_interval
from multitask_trainer.evaluation.metrics import RowStatistics, statistics
from multitask_trainer.evaluation.seed_variance import moderated_seed_variance
from multitask_trainer.evaluation.verdict import MAX_HALF_WIDTH


@dataclass(frozen=True)
class TaskModel:
    """A task whose training runs score ``level`` on average, with standard deviation ``spread``."""

    level: float
    spread: float


STABLE = tuple(TaskModel(0.85 + 0.005 * number, 0.003) for number in range(16))
NOISY = TaskModel(0.45, 0.05)
NEAR_ZERO = TaskModel(0.09, 0.035)
"""A MatthewsCorrelation: log scores would vary by a factor."""

SUITES: dict[str, Sequence[TaskModel]] = {
    "16 stable, one of SD .05": (*STABLE, NOISY),
    "16 stable, one of SD .02": (*STABLE, TaskModel(0.6, 0.02)),
    "16 stable, one MatthewsCorrelation of .09 ± .035": (*STABLE, NEAR_ZERO),
    "13 stable, four of SD .05": (*STABLE[:13], *[NOISY] * 4),
    "17 alike, SD .01": tuple(TaskModel(0.8, 0.01) for _ in range(17)),
    "2 stable, one of SD .05": (*STABLE[:2], NOISY),
}


@dataclass(frozen=True)
class Outcome:
    """Of one task over all repetitions: how often its interval contains the ratio, and how wide it is."""

    covered: float
    half_width: float
    """The median."""
    narrow: float
    """The share of intervals that are narrow enough for any verdict (half-width at most 0.10)."""


def _outcome(intervals: Sequence[Interval]) -> Outcome:
    widths = np.asarray([interval.half_width for interval in intervals])
    return Outcome(
        covered=float(np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])),
        half_width=float(np.median(widths)),
        narrow=float(np.mean(widths <= MAX_HALF_WIDTH)),
    )


def simulate_runs(
    suite: Sequence[TaskModel], observed: Sequence[int], *, seeds: int, repeats: int, seed: int = 0
) -> list[Outcome]:
    """The tasks at the positions ``observed``, where runs vary and rows do not: mixture and baselines are alike.

    So every true ratio is 1. A repetition in which a score is not positive has no ratio, and does not count.
    """
    random = np.random.default_rng(seed)
    levels = np.asarray([task.level for task in suite])[:, None]
    spreads = np.asarray([task.spread for task in suite])[:, None]
    intervals: dict[int, list[Interval]] = {position: [] for position in observed}
    for _ in range(repeats):
        runs = levels + spreads * random.normal(size=(len(suite), seeds + 1))
        for position in observed:
            score, *baselines = (float(value) for value in runs[position])
            if score <= 0 or sum(baselines) <= 0:
                continue
            own = moderated_seed_variance(baselines, [row[1:] for at, row in enumerate(runs) if at != position])
            same = np.full(2, score)
            rows = np.full((seeds, 2), float(np.mean(baselines)))
            intervals[position].append(ratio_interval(score, baselines, same, rows, seeds=own, rows=1000))
    return [_outcome(intervals[position]) for position in observed]


def simulate_answers(
    suite: Sequence[TaskModel],
    observed: Sequence[int],
    *,
    seeds: int,
    rows: int,
    repeats: int,
    replicates: int = 250,
    seed: int = 0,
) -> list[Outcome]:
    """The same with test rows: each run answers them rightly or not, some rows are hard for every run."""
    random = np.random.default_rng(seed)
    intervals: dict[int, list[Interval]] = {position: [] for position in observed}
    for repeat in range(repeats):
        answers = [_answers(random, task, seeds + 1, rows) for task in suite]
        for position in observed:
            score, *baselines = (float(flags.mean()) for flags in answers[position])
            own = moderated_seed_variance(
                baselines, [flags[1:].mean(axis=1) for at, flags in enumerate(answers) if at != position]
            )
            drawn = bootstrap([right(flags) for flags in answers[position]], seed=repeat, replicates=replicates)
            intervals[position].append(ratio_interval(score, baselines, drawn[0], drawn[1:], seeds=own, rows=rows))
    return [_outcome(intervals[position]) for position in observed]


def right(flags: np.ndarray) -> RowStatistics:
    """The statistics of right (true) and wrong answers."""
    return statistics("Accuracy", ["y" if flag else "n" for flag in flags], [["y"]] * len(flags))


def _answers(random: np.random.Generator, task: TaskModel, runs: int, rows: int) -> np.ndarray:
    """(runs, rows) right or wrong; each run has its own true score."""
    true = np.clip(task.level + task.spread * random.normal(size=(runs, 1)), 0.001, 0.999)
    shared, own = random.normal(size=(1, rows)), random.normal(size=(runs, rows))
    return math.sqrt(0.7) * shared + math.sqrt(0.3) * own < stats.norm.ppf(true)
