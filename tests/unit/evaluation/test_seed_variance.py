"""The variance between seeds: by hand, and as a table of sentences about what is alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from multitask_trainer.evaluation.seed_variance import SUITE_WEIGHT, UNKNOWN, SeedVariance, moderated_seed_variance

STABLE = [0.905, 0.910, 0.907]
OTHERS = [[0.88 + 0.001 * i, 0.884 + 0.001 * i, 0.882 + 0.001 * i] for i in range(7)]
SMALL = [0.40, 0.52, 0.33]
NEAR_ZERO = [0.05, 0.12, 0.09]


def var(scores):
    return float(np.var(scores, ddof=1))


def test_by_hand():
    typical = var(OTHERS[0]) * 2 / stats.chi2.ppf(0.5, 2)  # the others all have one variance
    found = moderated_seed_variance(STABLE, OTHERS)
    added = SUITE_WEIGHT * 2
    assert found.variance == pytest.approx((added * typical + 2 * var(STABLE)) / (added + 2))
    assert found.degrees_of_freedom == pytest.approx(added + 2)


@pytest.mark.parametrize("noisy", [SMALL, NEAR_ZERO, [-0.1, 0.2, 0.0], [0.0, 0.5, 0.0]])
def test_one_noisy_task_changes_nothing_for_the_stable_ones(noisy):
    before = moderated_seed_variance(STABLE, OTHERS)
    after = moderated_seed_variance(STABLE, [*OTHERS, noisy])
    assert after.variance == pytest.approx(before.variance, rel=0.01)
    assert after.degrees_of_freedom == before.degrees_of_freedom


@pytest.mark.parametrize("noisy", [SMALL, NEAR_ZERO])
def test_a_noisy_task_stands_alone(noisy):
    assert moderated_seed_variance(noisy, [STABLE, *OTHERS]) == SeedVariance(var(noisy), 2)


def test_a_stable_task_beside_noisy_ones_stands_alone():
    assert moderated_seed_variance(STABLE, [SMALL] * 3) == SeedVariance(var(STABLE), 2)


CASES = [
    ("no other task", STABLE, [], SeedVariance(var(STABLE), 2)),
    ("one seed, and nobody has two", [0.9], [[0.8], [0.7]], UNKNOWN),
    ("no task at all", [], [], UNKNOWN),
    ("no seeds of its own: what is typical", [], [[0.1, 0.2]], SeedVariance(0.005 / stats.chi2.ppf(0.5, 1), 1)),
    ("seeds that differ where the others' are equal", [0.5, 0.6], [[0.7, 0.7]] * 3, SeedVariance(0.005, 1)),
    ("equal seeds everywhere", [0.5, 0.5], [[0.7, 0.7]] * 3, SeedVariance(0.0, 1 + SUITE_WEIGHT)),
]


@pytest.mark.parametrize(("sentence", "own", "others", "expected"), CASES, ids=[row[0] for row in CASES])
def test_ends_of_the_scale(sentence, own, others, expected):
    found = moderated_seed_variance(own, others)
    assert found.variance == pytest.approx(expected.variance)
    assert found.degrees_of_freedom == pytest.approx(expected.degrees_of_freedom)


def test_two_seeds_with_the_same_score_are_a_tie_not_certainty():
    tied = moderated_seed_variance([0.9, 0.9], [[0.8, 0.82], [0.7, 0.69], [0.6, 0.63]])
    assert tied.variance > 0
