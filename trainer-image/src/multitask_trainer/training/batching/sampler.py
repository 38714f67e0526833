"""Which rows make up a batch: a pure function of (seed, step).

The generator is counter-based (Philox), so any step's batch can be computed without those before it, and a resumed run
needs no sampler state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORDS = 4
"""Philox gives four 64-bit words per counter value; a step's draws begin at a counter of their own."""

_CHUNK = 4096
"""Steps counted at once when the counts before a step are recomputed."""


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step: slot j has row ``rows[j]`` of the training rows of task ``tasks[j]``."""

    tasks: NDArray[np.int64]
    rows: NDArray[np.int64]


class Sampler:
    """Draws each row slot's task with probability p_i, and within a task takes rows without replacement.

    The k-th draw of task i is ``permutation(seed, i, k // n_i)[k % n_i]``, k counting the draws of i in all slots
    before. So every row of a task comes once before any comes twice: a size limit K that lowered p_i caps the task's
    rate and drops no row.
    """

    def __init__(
        self, probabilities: Mapping[str, float], rows: Mapping[str, int], *, batch_rows: int, seed: int
    ) -> None:
        """``probabilities`` sum to 1; ``rows`` gives every task's n_i ≥ 1."""
        self.names = tuple(probabilities)
        shares = np.array([probabilities[name] for name in self.names], dtype=np.float64)
        if abs(shares.sum() - 1) > 1e-6 or (shares < 0).any():
            raise ValueError(f"probabilities must be at least 0 and sum to 1, got {dict(probabilities)}")
        self._edges = np.cumsum(shares / shares.sum())[:-1]
        self._sizes = np.array([rows[name] for name in self.names], dtype=np.int64)
        if (self._sizes < 1).any():
            raise ValueError(f"tasks without training rows cannot be sampled: {dict(rows)}")
        self._batch_rows = batch_rows
        self._seed = seed
        self._keys = [task_key(name) for name in self.names]
        # Caches only: every entry can be recomputed from (seed, step).
        self._counted = (0, np.zeros(len(self.names), dtype=np.int64))
        self._permutations: dict[tuple[int, int], NDArray[np.int64]] = {}

    def at(self, step: int) -> Batch:
        """The batch of ``step``, counted from 0."""
        tasks = self.tasks_at(step)
        before = self._counts(step)
        rows = np.empty(self._batch_rows, dtype=np.int64)
        for task in np.unique(tasks):
            slots = np.flatnonzero(tasks == task)
            draws = before[task] + np.arange(len(slots))
            rows[slots] = self._rows(int(task), draws)
        return Batch(tasks, rows)

    def tasks_at(self, step: int) -> NDArray[np.int64]:
        """The task of each slot of ``step``."""
        tasks: NDArray[np.int64] = self._tasks(step, step + 1)[0]
        return tasks

    def rows_drawn(self, steps: int) -> dict[str, int]:
        """How many rows each task was given in the first ``steps`` steps."""
        return {name: int(count) for name, count in zip(self.names, self._counts(steps), strict=True)}

    def totals_drawn(self, steps: int, amounts: Sequence[NDArray[np.int64]]) -> dict[str, int]:
        """The sum over the rows given in the first ``steps`` steps of each task's ``amounts``, (n_i,) each."""
        totals = {}
        for task, (name, count) in enumerate(self.rows_drawn(steps).items()):
            epochs, rest = divmod(count, len(amounts[task]))
            begun = self._permutation(task, epochs)[:rest]
            totals[name] = int(epochs * amounts[task].sum() + amounts[task][begun].sum())
        return totals

    def _tasks(self, begin: int, end: int) -> NDArray[np.int64]:
        """The tasks of steps ``begin`` to ``end`` - 1, shape (end - begin, batch_rows)."""
        counters = -(-self._batch_rows // _WORDS)
        generator = _generator(self._seed, 0, counter=(begin * counters, 0, 0, 0))
        uniform = generator.random((end - begin, counters * _WORDS))[:, : self._batch_rows]
        return np.searchsorted(self._edges, uniform, side="right").astype(np.int64)

    def _counts(self, step: int) -> NDArray[np.int64]:
        """Draws of each task in the steps before ``step``."""
        known, counts = self._counted if self._counted[0] <= step else (0, np.zeros_like(self._sizes))
        while known < step:
            upto = min(step, known + _CHUNK)
            counts = counts + np.bincount(self._tasks(known, upto).ravel(), minlength=len(self.names))
            known = upto
        self._counted = (known, counts)
        return counts

    def _rows(self, task: int, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        size = int(self._sizes[task])
        epochs = draws // size
        out = np.empty_like(draws)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            out[in_epoch] = self._permutation(task, int(epoch))[draws[in_epoch] % size]
        return out

    def _permutation(self, task: int, epoch: int) -> NDArray[np.int64]:
        order = self._permutations.get((task, epoch))
        if order is None:
            order = permutation(int(self._sizes[task]), seed=self._seed, key=self._keys[task], index=epoch)
            kept = {key: value for key, value in self._permutations.items() if key[0] != task or key[1] == epoch - 1}
            self._permutations = kept | {(task, epoch): order}
        return order


def permutation(size: int, *, seed: int, key: int, index: int) -> NDArray[np.int64]:
    """The ``index``-th permutation of ``range(size)`` of the stream ``key`` (not 0)."""
    return _generator(seed, key, counter=(0, 0, 0, index)).permutation(size)


def _generator(seed: int, key: int, counter: tuple[int, int, int, int]) -> np.random.Generator:
    # As arrays: of a list with a number of 2^63 or more numpy makes floats, which lose its low bits.
    words = np.array([seed, key], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words, counter=np.array(counter, dtype=np.uint64)))


def task_key(name: str, purpose: str = "train") -> int:
    """A 64-bit stream number of a task's name: it does not change when other tasks come or go."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{name}".encode()).digest()[:8], "little") | 1


def fixed_sample(size: int, limit: int, *, seed: int, name: str, purpose: str) -> NDArray[np.int64]:
    """At most ``limit`` of ``size`` row numbers, ascending; the same for the same seed, name and purpose."""
    if size <= limit:
        return np.arange(size)
    return np.sort(permutation(size, seed=seed, key=task_key(name, purpose), index=0)[:limit])
