"""The interval of the ratio: its parts by hand, and its coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from multitask_trainer.evaluation.interval import (
    SeedVariance,
    baseline_margin_interval,
    bootstrap,
    pooled_seed_variance,
    ratio_interval,
)
from multitask_trainer.evaluation.metrics import RowStatistics, statistics

UNKNOWN = SeedVariance(None, 0)


def right(flags: np.ndarray) -> RowStatistics:
    return statistics("Accuracy", ["y" if flag else "n" for flag in flags], [["y"]] * len(flags))


def test_pooled_variance_by_hand():
    variance = pooled_seed_variance([[0.9, 0.8], [0.5, 0.6, 0.7]])
    squares = 2 * (math.log(0.9 / 0.8) / 2) ** 2 + np.var(np.log([0.5, 0.6, 0.7])) * 3
    assert variance.degrees_of_freedom == 3
    assert variance.variance == pytest.approx(squares / 3)


@pytest.mark.parametrize(
    ("scores", "why"),
    [([[0.9], [0.8]], "one seed each"), ([], "no task"), ([[0.5, 0.0], [-0.1, 0.2]], "scores without a logarithm")],
)
def test_no_variance_without_a_second_seed(scores, why):
    assert pooled_seed_variance(scores) == UNKNOWN, why


def test_replicates_are_paired_and_repeat_for_a_seed():
    flags = np.random.default_rng(0).random(200) < 0.7
    twice = bootstrap([right(flags), right(flags)], seed=5)
    assert twice.shape == (2, 2000)
    assert np.array_equal(twice[0], twice[1])
    assert np.array_equal(twice, bootstrap([right(flags), right(flags)], seed=5))
    assert not np.array_equal(twice, bootstrap([right(flags), right(flags)], seed=6))


def test_replicates_vary_as_the_binomial_does():
    flags = np.arange(400) < 300
    scores = bootstrap([right(flags)], seed=1, replicates=8000)[0]
    assert scores.mean() == pytest.approx(0.75, abs=0.002)
    assert scores.std() == pytest.approx(math.sqrt(0.75 * 0.25 / 400), rel=0.05)


def test_sources_with_other_rows_are_refused():
    with pytest.raises(ValueError, match="same rows"):
        bootstrap([right(np.ones(3)), right(np.ones(4))], seed=1)


def test_rows_are_drawn_in_blocks_when_they_are_many():
    assert bootstrap([right(np.arange(30_000) % 3 > 0)], seed=1, replicates=300).std() < 0.004


def test_equal_answers_leave_the_seeds_alone():
    same = np.full(2000, 0.8)
    seeds = SeedVariance(0.0004, 4)
    interval = ratio_interval(0.8, [0.8, 0.8], same, np.stack([same, same]), seeds=seeds, rows=100)
    reach = stats.t.ppf(0.975, 4) * math.sqrt(0.0004 * 1.5)
    assert (interval.low, interval.high) == (pytest.approx(math.exp(-reach)), pytest.approx(math.exp(reach)))
    declared = ratio_interval(0.8, [0.8], same, same[None], seeds=seeds, rows=100, declared=True)
    assert declared.high == pytest.approx(math.exp(stats.t.ppf(0.975, 4) * 0.02))


def test_one_seed_uses_rows_and_the_normal_quantile():
    logs = np.random.default_rng(1).normal(0, 0.01, 2000)
    interval = ratio_interval(0.8, [0.8], 0.8 * np.exp(logs), np.full((1, 2000), 0.8), seeds=UNKNOWN, rows=100)
    assert math.log(interval.high) == pytest.approx(1.96 * logs.std(ddof=1), rel=1e-3)


def test_replicates_of_zero_widen_instead_of_failing():
    replicates = np.array([0.0, 0.1] * 1000)
    interval = ratio_interval(0.05, [0.5], replicates, np.full((1, 2000), 0.5), seeds=UNKNOWN, rows=20)
    assert 0 < interval.low < 0.1 < interval.high


def test_margin_over_the_constant_baseline():
    base, floor = np.full((2, 2000), 0.9), np.full(2000, 0.6)
    seeds = SeedVariance(0.0001, 8)
    interval = baseline_margin_interval([0.88, 0.92], 0.6, base, floor, seeds=seeds)
    assert (interval.low + interval.high) / 2 == pytest.approx(0.3)
    assert interval.half_width == pytest.approx(stats.t.ppf(0.975, 8) * 0.9 * 0.01 / math.sqrt(2))


ROWS, SEEDS, SPREAD, TASKS = 200, 3, 0.03, (0.75, 0.8, 0.85, 0.88, 0.9)


def _runs(random: np.random.Generator, level: float, runs: int) -> list[np.ndarray]:
    """Right or wrong on the same rows, some of them hard for every run; each run has its own true score."""
    true = np.minimum(level * np.exp(random.normal(0, SPREAD, (runs, 1))), 0.999)
    shared = random.normal(size=(1, ROWS))
    own = random.normal(size=(runs, ROWS))
    return list(math.sqrt(0.7) * shared + math.sqrt(0.3) * own < stats.norm.ppf(true))


def test_interval_covers_the_true_ratio_with_three_seeds():
    random = np.random.default_rng(11)
    covered, alone, widths = [], [], []
    for repeat in range(240):
        runs = [_runs(random, level, SEEDS + 1) for level in TASKS]
        seeds = pooled_seed_variance([[float(flags.mean()) for flags in task[1:]] for task in runs])
        assert seeds.degrees_of_freedom == len(TASKS) * (SEEDS - 1)
        for task in runs:
            replicates = bootstrap([right(flags) for flags in task], seed=repeat, replicates=250)
            mean, *base = [float(flags.mean()) for flags in task]
            interval = ratio_interval(mean, base, replicates[0], replicates[1:], seeds=seeds, rows=ROWS)
            rows_only = ratio_interval(mean, base, replicates[0], replicates[1:], seeds=UNKNOWN, rows=ROWS)
            covered.append(interval.low <= 1.0 <= interval.high)
            alone.append(rows_only.low <= 1.0 <= rows_only.high)
            widths.append(interval.half_width)
    assert np.mean(covered) >= 0.93
    assert np.mean(alone) < 0.85, "rows alone are too sure of themselves: the seeds have to be in the interval"
    assert np.median(widths) < 0.14, "an interval that always covers says nothing"
