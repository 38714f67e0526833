from __future__ import annotations

import pytest

from multitask_trainer.training.schedule import Schedule, decay_steps


@pytest.mark.parametrize("max_steps", [1, 2, 3, 7, 8, 100, 115, 116, 1000, 4000])
def test_the_limit_includes_the_tail(max_steps):
    schedule = Schedule(warmup_steps=0, max_steps=max_steps)
    begin = schedule.latest_decay_start
    assert schedule.end(begin) == schedule.end(None) == max_steps
    assert 0 <= begin < max_steps
    assert abs((max_steps - begin) - decay_steps(begin)) <= 1


def test_early_stopping_adds_15_percent_of_the_steps_so_far():
    assert Schedule(warmup_steps=10, max_steps=4000).end(400) == 460


def test_the_shape_is_warmup_constant_decay():
    schedule = Schedule(warmup_steps=4, max_steps=1000)
    factors = [schedule.factor(step, 20) for step in range(schedule.end(20))]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:20] == [1.0] * 16
    assert factors[20:] == pytest.approx([1.0, 2 / 3, 1 / 3])
    phases = [schedule.phase(step, 20) for step in range(23)]
    assert phases == ["warmup"] * 4 + ["constant"] * 16 + ["decay"] * 3


def test_a_tail_inside_the_warmup_never_reaches_zero_nor_rises_above_it():
    schedule = Schedule(warmup_steps=100, max_steps=20)
    begin = schedule.latest_decay_start
    factors = [schedule.factor(step, begin) for step in range(20)]
    assert all(0 < factor <= 0.2 for factor in factors)
    assert factors[-1] < factors[begin]


def test_without_warmup_the_first_step_has_the_full_rate():
    assert Schedule(warmup_steps=0, max_steps=10).factor(0, None) == 1.0
