"""Batches that a thread prepares are the batches themselves, and the thread ends with whoever asked for them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.prefetch import Prefetcher
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches


class Broken(Exception):
    pass


class Counted:
    """Batches of one number each, which counts what it is asked for."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[int] = []
        self._fails_at = fails_at

    def at(self, step: int):
        self.asked.append(step)
        if step == self._fails_at:
            raise Broken
        return [step]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("pack", [False, True])
def test_they_are_bit_for_bit_those_of_the_source(pack):
    generator = np.random.default_rng(1)
    prompts = [generator.integers(0, 61, length).tolist() for length in generator.integers(3, 40, 70)]
    dataset = EncodedDataset.of(prompts, [prompt[: 1 + row % 3] for row, prompt in enumerate(prompts)])

    def source():
        sampler = Sampler({"a": 0.7, "b": 0.3}, {"a": 70, "b": 70}, batch_rows=16, seed=2)
        return TaskBatches(sampler, [dataset, dataset], 16, 256, pack)

    alone, ahead = source(), source()
    with Prefetcher() as prefetcher:
        for step in [*range(12), 40, 41, 3, 4]:
            expected, found = alone.at(step), prefetcher.at(ahead, step)
            for one, other in zip(expected, found, strict=True):
                for field, value in vars(one).items():
                    same = getattr(other, field)
                    assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same, field


def test_no_more_than_two_steps_are_prepared_and_none_twice():
    source = Counted()
    with Prefetcher(ahead=2) as prefetcher:
        assert prefetcher.at(source, 5) == [5]
        until(lambda: len(source.asked) == 3)
        time.sleep(0.02)
        assert source.asked == [5, 6, 7]
        assert prefetcher.at(source, 6) == [6]
        until(lambda: len(source.asked) == 4)
        assert source.asked == [5, 6, 7, 8]


def test_other_batches_and_other_steps_begin_anew():
    first, second = Counted(), Counted()
    with Prefetcher(ahead=2) as prefetcher:
        assert prefetcher.at(first, 0) == [0]
        until(lambda: len(first.asked) == 3)
        assert prefetcher.at(second, 1) == [1], "with smaller micro-batches"
        until(lambda: len(second.asked) == 3)
        assert prefetcher.at(second, 1) == [1], "the same step once more"
        until(lambda: len(second.asked) == 6)
        assert prefetcher.at(second, 9) == [9]
        until(lambda: len(second.asked) == 9)
        assert threads() == ["prefetch"]
    assert threads() == []
    assert first.asked == [0, 1, 2], "nobody asks for more of what is not used any more"
    assert second.asked == [1, 2, 3, 1, 2, 3, 9, 10, 11]


def test_what_a_step_raises_is_raised_where_it_is_asked_for_and_not_before():
    source = Counted(fails_at=2)
    with Prefetcher() as prefetcher:
        assert [prefetcher.at(source, step) for step in (0, 1)] == [[0], [1]]
        until(lambda: 2 in source.asked)
        for _ in range(2):
            with pytest.raises(Broken):
                prefetcher.at(source, 2)
        assert prefetcher.at(source, 3) == [3]


def test_the_thread_ends_when_the_step_raises():
    with pytest.raises(ZeroDivisionError), Prefetcher() as prefetcher:
        prefetcher.at(Counted(), 0)
        assert threads() == ["prefetch"]
        raise ZeroDivisionError
    assert threads() == []
