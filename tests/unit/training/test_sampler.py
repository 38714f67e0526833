from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from multitask_api.stages.sampling import mixture
from multitask_trainer.training.batching.sampler import Sampler, fixed_sample, permutation

ROWS = {"big": 5000, "middle": 700, "small": 40}


def sampler(seed: int = 17, batch_rows: int = 32, **changes: object) -> Sampler:
    shares = mixture(ROWS, temperature=2.0, size_limit=None)
    return Sampler(shares, ROWS, batch_rows=batch_rows, seed=seed)


@pytest.mark.parametrize("batch_rows", [1, 3, 32, 33])
def test_a_batch_is_the_same_in_whatever_order_steps_are_asked_for(batch_rows):
    forward = [sampler(batch_rows=batch_rows).at(0)]
    one = sampler(batch_rows=batch_rows)
    forward = [one.at(step) for step in range(300)]
    other = sampler(batch_rows=batch_rows)
    for step in [299, 0, 150, 149, 7, 298]:
        batch = other.at(step)
        assert (batch.tasks == forward[step].tasks).all()
        assert (batch.rows == forward[step].rows).all()


def test_counts_over_several_chunks_do_not_depend_on_the_way_there():
    jump, walk = sampler(batch_rows=2), sampler(batch_rows=2)
    for step in range(0, 9001, 1500):
        walk.at(step)
    assert jump.rows_drawn(9000) == walk.rows_drawn(9000)
    assert (jump.at(9000).rows == walk.at(9000).rows).all()


def test_tasks_are_drawn_with_their_probabilities():
    drawing = sampler()
    given = drawing.rows_drawn(2000)
    total = sum(given.values())
    shares = mixture(ROWS, temperature=2.0, size_limit=None)
    assert total == 2000 * 32
    assert chisquare([given[name] for name in ROWS], [total * shares[name] for name in ROWS]).pvalue > 0.001


def test_neighbouring_batches_are_independent():
    drawing = sampler()
    tasks = np.array([drawing.at(step).tasks for step in range(500)])
    assert abs(np.corrcoef(tasks[:-1].ravel(), tasks[1:].ravel())[0, 1]) < 0.03


def test_rows_come_without_replacement_and_in_another_order_each_epoch():
    drawing = Sampler({"only": 1.0}, {"only": 10}, batch_rows=5, seed=3)
    epochs = [np.concatenate([drawing.at(2 * epoch).rows, drawing.at(2 * epoch + 1).rows]) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_an_epoch_may_end_inside_a_batch():
    drawing = Sampler({"only": 1.0}, {"only": 3}, batch_rows=7, seed=3)
    drawn = np.concatenate([drawing.at(step).rows for step in range(3)])
    assert all(sorted(drawn[start : start + 3]) == [0, 1, 2] for start in range(0, 21, 3))


def test_a_size_limit_caps_the_rate_and_drops_no_row():
    rows = {"big": 2000, "small": 100}
    capped = mixture(rows, temperature=1.0, size_limit=100)
    drawing = Sampler(capped, rows, batch_rows=50, seed=1)
    given = drawing.rows_drawn(100)
    assert 0.45 < given["big"] / 5000 < 0.55
    seen = {
        int(row)
        for step in range(100)
        for task, row in zip(drawing.at(step).tasks, drawing.at(step).rows, strict=True)
        if task == 0
    }
    assert seen == set(range(2000))


def test_seeds_give_different_batches():
    assert (sampler(seed=1).at(5).rows != sampler(seed=2).at(5).rows).any()


def test_another_task_does_not_change_a_tasks_row_order():
    alone = Sampler({"a": 1.0}, {"a": 50}, batch_rows=50, seed=5).at(0).rows
    both = Sampler({"b": 0.5, "a": 0.5}, {"a": 50, "b": 9}, batch_rows=300, seed=5).at(0)
    assert (both.rows[both.tasks == 1][:50] == alone).all()


@pytest.mark.parametrize(
    ("probabilities", "rows", "message"),
    [
        ({"a": 0.5}, {"a": 1}, "sum to 1"),
        ({"a": 1.5, "b": -0.5}, {"a": 1, "b": 1}, "at least 0"),
        ({"a": 1.0}, {"a": 0}, "without training rows"),
    ],
)
def test_what_cannot_be_sampled(probabilities, rows, message):
    with pytest.raises(ValueError, match=message):
        Sampler(probabilities, rows, batch_rows=4, seed=0)


def test_a_fixed_sample_is_fixed_distinct_and_within_its_limit():
    one = fixed_sample(1000, 500, seed=7, name="a", purpose="validation")
    assert len(set(one.tolist())) == 500
    assert (one == fixed_sample(1000, 500, seed=7, name="a", purpose="validation")).all()
    assert (one != fixed_sample(1000, 500, seed=7, name="b", purpose="validation")).any()
    assert (fixed_sample(20, 500, seed=7, name="a", purpose="validation") == np.arange(20)).all()


def test_streams_whose_numbers_differ_in_their_lowest_bits_differ():
    key = 2**63 + 2**62 + 1
    first, second = (permutation(500, seed=1, key=number, index=0) for number in (key, key + 2))
    assert (first != second).any()
