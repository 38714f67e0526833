"""The sequential test of accuracies: how often it is wrong, and how soon it is right, by simulation."""

from __future__ import annotations

import random

import pytest

from multitask_operator.rollout.labels import ALPHA, surely_worse

RUNS, LABELS, LOOK_EVERY = 300, 600, 10


def alarm_after(seed: int, new: float, old: float, drop: float, old_per_new: int = 1) -> int | None:
    """Labels of the new revision after which the test says that it is worse; None: never. Looked at all the time."""
    draw = random.Random(seed)
    rights, wrongs = [0, 0], [0, 0]
    for label in range(1, LABELS + 1):
        for which, accuracy, times in ((0, new, 1), (1, old, old_per_new)):
            right = sum(draw.random() < accuracy for _ in range(times))
            rights[which] += right
            wrongs[which] += times - right
        if label % LOOK_EVERY == 0 and surely_worse((rights[0], wrongs[0]), (rights[1], wrongs[1]), drop):
            return label
    return None


@pytest.mark.parametrize(
    ("new", "old", "drop", "old_per_new"),
    [(0.9, 0.9, 0.01, 1), (0.9, 0.9, 0.0, 1), (0.89, 0.9, 0.01, 1), (0.5, 0.5, 0.0, 1), (0.9, 0.9, 0.0, 9),
     (0.99, 0.99, 0.0, 1), (0.6, 0.65, 0.05, 9)],
)  # fmt: skip
def test_a_revision_within_the_allowed_drop_is_called_worse_at_most_as_often_as_stated(new, old, drop, old_per_new):
    alarms = sum(alarm_after(seed, new, old, drop, old_per_new) is not None for seed in range(RUNS))
    assert alarms / RUNS <= ALPHA, f"{alarms} of {RUNS}"


@pytest.mark.parametrize(
    ("new", "old", "old_per_new", "labels"),
    [(0.5, 0.9, 9, 60), (0.7, 0.9, 9, 200), (0.8, 0.9, 9, 700), (0.7, 0.9, 1, 300)],
)
def test_a_revision_that_is_worse_is_found(new, old, old_per_new, labels):
    found = sorted(alarm_after(seed, new, old, 0.01, old_per_new) or LABELS + 1 for seed in range(60))
    assert found[30] <= labels, "half of the runs"
    assert found[56] <= 3 * labels, "nearly all of them"


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ((0, 0), (100, 0)),
        ((0, 3), (0, 0)),
        ((0, 1), (1, 0)),
        ((90, 10), (90, 10)),
        ((100, 0), (0, 100)),
        ((0, 0), (0, 0)),
    ],
)
def test_too_little_or_nothing_worse_is_no_alarm(new, old):
    assert not surely_worse(new, old, 0.01)


@pytest.mark.parametrize(("new", "old"), [((0, 100), (100, 0)), ((0, 20), (2000, 1)), ((500, 500), (900, 100))])
def test_what_is_plain_is_an_alarm(new, old):
    assert surely_worse(new, old, 0.01)


@pytest.mark.parametrize("drop", [0.0, 0.01, 0.5, 1.0])
def test_a_larger_drop_may_be_allowed(drop: float):
    assert surely_worse((50, 150), (180, 20), drop) == (drop < 0.5)
