"""Which adapter each row of the current batch uses, and how the rows are laid out for the matrix products.

Rows of one adapter that stand together are one *run*: its product with A and B is that of one ordinary LoRA layer, on
views of the activations and of the weights. The engine keeps a call's rows of one adapter together, so that a batch has
at most one run per adapter, and nothing is gathered per row.

Many short runs (a decoding step of rows with an adapter each) cost more calls than arithmetic. They are padded to one
length, and one batched product covers the slice of stacked adapters from the first to the last number in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

RUN_COSTS = {"cpu": 1 << 14, "cuda": 1 << 22}
"""Numbers that a device reads or writes in the time in which Python starts the two products of a run. On one CPU core:
6 µs, measured; chosen for a GPU from 6 µs and about 1 TB/s of bf16, not measured."""


@dataclass(frozen=True)
class PaddedRows:
    """The rows from ``first_row`` on (none before it has an adapter) in slots: as many for each adapter in a range."""

    first_row: int
    numbers: slice
    """The adapters from the first to the last one in use."""
    spare: int
    """How many of them no row uses, plus the empty slots of the others."""
    rows: Tensor
    """(G·C,) the row in each slot, C for each of G adapters. An empty slot repeats some row; its result is unused."""
    slots: Tensor
    """(B - first_row,) the slot of each row."""

    @classmethod
    def of(cls, numbers: Sequence[int], device: torch.device) -> PaddedRows | None:
        """The layout for ascending ``numbers``; None for others, or if no row has an adapter."""
        counts = Counter(number for number in numbers if number)
        if not counts or list(numbers) != sorted(numbers):
            return None
        first_row, first, last = len(numbers) - counts.total(), min(counts), max(counts)
        length = max(counts.values())
        slots = [(number - first) * length + place for number in sorted(counts) for place in range(counts[number])]
        rows = [first_row] * ((last + 1 - first) * length)
        for row, slot in enumerate(slots, first_row):
            rows[slot] = row
        return cls(
            first_row,
            slice(first, last + 1),
            len(rows) - len(slots),
            torch.tensor(rows, device=device),
            torch.tensor(slots, device=device),
        )


@dataclass(frozen=True)
class BatchRows:
    """The rows of a batch as runs, and padded where that can be done."""

    numbers: tuple[int, ...]
    runs: tuple[tuple[int, int, int], ...]
    """First row, row after the last one, adapter number (0: none); all rows, in order."""
    padded: PaddedRows | None = None

    @classmethod
    def of(cls, numbers: Sequence[int], device: torch.device) -> BatchRows:
        """The layout of a batch whose row i uses adapter ``numbers[i]``. Rows that all use one count as one row."""
        if len(set(numbers)) == 1:
            return cls((numbers[0],), ((0, 1, numbers[0]),))
        runs = []
        start = 0
        for number, group in groupby(numbers):
            end = start + len(list(group))
            runs.append((start, end, number))
            start = end
        return cls(tuple(numbers), tuple(runs), PaddedRows.of(numbers, device))

    def padded_for(self, tokens: int, rank: int, features: int) -> PaddedRows | None:
        """The padded layout if it costs less than the runs, in a layer with ``features`` inputs and outputs together.

        ``tokens`` are those of one row. Padding reads the weights of adapters that are not in use, and copies inputs
        and results.
        """
        padded = self.padded
        if padded is None:
            return None
        extra = (padded.spare * rank + 2 * len(padded.rows) * tokens) * features
        return padded if extra < len(self.runs) * RUN_COSTS[padded.rows.device.type] else None


_NO_ADAPTERS = BatchRows((0,), ((0, 1, 0),))


class ActiveAdapters:
    """The adapters of the rows of the current batch. Each loaded model has one, shared by its layers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._previous = _NO_ADAPTERS
        self.batch = _NO_ADAPTERS

    @contextmanager
    def use(self, numbers: Sequence[int]) -> Iterator[None]:
        """A context in which row i of every forward pass uses adapter ``numbers[i]``; outside, no adapter is used.

        Rows of one adapter may stand anywhere, but cost least where they stand together, in ascending order.
        """
        if tuple(numbers) != self._previous.numbers:  # from step to step of a decoding they are the same
            self._previous = BatchRows.of(numbers, self._device)
        self.batch = self._previous
        try:
            yield
        finally:
            self.batch = _NO_ADAPTERS
