"""Micro-batches: part of the rows of one optimizer step, collated for one forward pass.

All rows of a step, over all micro-batches and processes, are its *global batch* (``training.batchRows``).

Two layouts give the same loss. *Padded*: rows sorted by length, one a sequence, padded on the right; causal attention
does not read what follows, so no mask is needed. *Packed*: several rows a sequence with an explicit block-diagonal
mask, for GPUs, where padding costs more than the mask. Attention costs the square of a sequence's width, whatever the
mask leaves out, so rows that are wider than a pack are padded instead. ``position_ids`` are explicit in both: each row
counts from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EncodedRow = tuple[NDArray[np.int32], int]
"""A row's ids (prompt, answer, EOS) and the length of its prompt."""

_MICRO_BATCH_COST = 100
"""What starting one more pass through a small model costs, in tokens (measured: about 4 ms against 40 µs a token)."""
GPU_MICRO_BATCH_COST = 2048
"""The same on a GPU, where a pass takes ten milliseconds or more to be launched. Not measured."""
_ATTENTION_WIDTH = 4096
"""Attention with a mask over sequences of that width takes as long as all else. Not measured; grows with the model."""


@dataclass(frozen=True)
class MicroBatch:
    """B sequences of T tokens. The last token of a row is only ever a target, so it is not among the inputs."""

    input_ids: Tensor
    """(B, T) int64"""
    position_ids: Tensor
    """(B, T) int64"""
    segment_ids: Tensor | None
    """(B, T) int32, equal for the tokens of one row, 0 for padding; None where each sequence holds one row."""
    logit_positions: Tensor
    """(N,) int64, indices into B · T: where the target tokens are predicted."""
    targets: Tensor
    """(N,) int64 token ids."""
    weights: Tensor
    """(N,) float32, 1 / (the row's target tokens · the global batch's rows); the loss is Σ weight · nll."""
    tokens: int
    """Input tokens, padding not counted."""
    task_ids: Tensor | None = None
    """int64, indices into the tasks of the run: (B,), or (B, T) where a sequence holds several rows; None: no tasks."""

    @property
    def attention_mask(self) -> Tensor | None:
        """(B, 1, T, T) bool, true for "may attend"; made where the batch is. None for plain causal attention."""
        if self.segment_ids is None:
            return None
        width = self.segment_ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=self.segment_ids.device).tril()
        return ((self.segment_ids[:, :, None] == self.segment_ids[:, None, :]) & causal)[:, None]

    def to(self, device: torch.device) -> MicroBatch:
        """The same on ``device``."""
        if device.type == "cpu":
            return self
        return self.pinned()._each(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> MicroBatch:
        """The same in pinned memory, from which a GPU copies while it computes; what is pinned already stays."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


class BatchSizes(Protocol):
    """How large the micro-batches of a step can be, for what finds their size."""

    @property
    def width(self) -> int:
        """Tokens of the widest sequence."""

    @property
    def step_tokens(self) -> int:
        """Tokens of a step at the most, padding included."""

    def longest(self, sequences: int) -> MicroBatch:
        """So many sequences that are full of the longest row."""


class Batches(BatchSizes, Protocol):
    """The rows of every step, in micro-batches for this process."""

    @property
    def token_budget(self) -> int:
        """Tokens of a micro-batch at the most, padding included."""

    def at(self, step: int) -> Sequence[MicroBatch]:
        """The micro-batches of ``step``, counted from 0."""

    def present(self, step: int) -> Tensor:
        """Of each task of the run, whether the global batch of ``step`` has rows of it: (tasks,) bool."""

    def with_budget(self, tokens: int) -> Batches:
        """The same rows in micro-batches of at most ``tokens`` tokens, but of one row at least."""


def padded(
    rows: Sequence[EncodedRow],
    *,
    batch_rows: int,
    token_budget: int,
    mixed_lengths: bool = True,
    tasks: Sequence[int] | None = None,
    start_cost: int = _MICRO_BATCH_COST,
) -> list[MicroBatch]:
    """Rows sorted by length, in micro-batches of at most ``token_budget`` tokens with padding (one row at least).

    ``tasks`` has the index of each row's task. Without ``mixed_lengths`` there is no padding: only rows of equal length
    share a micro-batch. ``start_cost``: of one more micro-batch, in tokens.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
    widths = np.array([len(rows[index][0]) - 1 for index in order])
    runs = [0, len(order)] if mixed_lengths else [0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(order)]
    return [
        collate(
            rows,
            [[index] for index in order[first + begin : first + end]],
            int(widths[first + begin]),
            batch_rows,
            mask=False,
            tasks=tasks,
        )
        for first, last in itertools.pairwise(runs)
        for begin, end in cuts(widths[first:last], token_budget, start_cost)
    ]


def cuts(widths: NDArray[np.int64], token_budget: int, start_cost: int) -> list[tuple[int, int]]:
    """Where to cut descending widths so that padded tokens and the cost of starting micro-batches are least in all.

    best(i) = min over j < i of best(j) + widths[j] · (i - j) + ``start_cost``, within the budget.
    """
    count = len(widths)
    best = np.zeros(count + 1)
    begins = np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        size = widths[:end] * np.arange(end, 0, -1)
        cost = np.where(size <= token_budget, best[:end] + size, np.inf)
        cost[-1] = best[end - 1] + size[-1]  # a row alone is always allowed
        begins[end] = cost.argmin()
        best[end] = cost[begins[end]] + start_cost
    found = []
    end = count
    while end > 0:
        found.append((int(begins[end]), end))
        end = int(begins[end])
    return found[::-1]


def packed(
    rows: Sequence[EncodedRow],
    *,
    batch_rows: int,
    token_budget: int,
    width: int,
    mixed_lengths: bool = True,
    tasks: Sequence[int] | None = None,
) -> list[MicroBatch]:
    """Rows packed into sequences of ``width`` tokens; rows that are longer are padded instead.

    Where that does not pay, because few tokens would be spared the width of a longer row, all are packed into sequences
    as wide as that. ``tasks`` has the index of each row's task; ``mixed_lengths`` as for `padded`.
    """
    lengths = [len(ids) - 1 for ids, _ in rows]
    longest = max(lengths)
    short, long = (
        [row for row, length in enumerate(lengths) if (length > width) == is_long] for is_long in (False, True)
    )
    spared = sum(lengths[row] for row in short) * (longest - width) / _ATTENTION_WIDTH
    if long and (not short or spared > GPU_MICRO_BATCH_COST):
        alone = padded(
            [rows[row] for row in long],
            batch_rows=batch_rows,
            token_budget=token_budget,
            mixed_lengths=mixed_lengths,
            tasks=None if tasks is None else [tasks[row] for row in long],
            start_cost=GPU_MICRO_BATCH_COST,
        )
    else:
        alone, short, width = [], list(range(len(rows))), max(width, longest)
    sequences = first_fit([(row, lengths[row]) for row in short], width)
    count = max(1, token_budget // width)
    return alone + [
        collate(rows, sequences[begin : begin + count], width, batch_rows, mask=True, tasks=tasks)
        for begin in range(0, len(sequences), count)
    ]


def first_fit(rows: Sequence[tuple[int, int]], width: int) -> list[list[int]]:
    """(row, length) → sequences of rows that are together at most ``width`` long: first-fit decreasing."""
    sequences: list[list[int]] = []
    room: list[int] = []
    first = 0  # sequences before it are too full for any row that is left
    shortest = min((length for _, length in rows), default=0)
    for row, length in sorted(rows, key=lambda each: -each[1]):
        chosen = next((number for number in range(first, len(sequences)) if room[number] >= length), len(sequences))
        if chosen == len(sequences):
            sequences.append([])
            room.append(width)
        sequences[chosen].append(row)
        room[chosen] -= length
        while first < len(sequences) and room[first] < shortest:
            first += 1
    return sequences


def collate(
    rows: Sequence[EncodedRow],
    sequences: Sequence[Sequence[int]],
    width: int,
    batch_rows: int,
    *,
    mask: bool,
    tasks: Sequence[int] | None,
) -> MicroBatch:
    """``sequences`` are lists of row numbers; ``batch_rows`` is the size of the global batch, for the rows' weights."""
    input_ids = np.zeros((len(sequences), width), dtype=np.int64)
    # Padding is segment 0 and attends to itself, so that every token attends to something.
    position_ids = np.tile(np.arange(width, dtype=np.int64), (len(sequences), 1))
    segment_ids = np.zeros((len(sequences), width), dtype=np.int32)
    task_ids = np.zeros((len(sequences), width), dtype=np.int64)  # of padding, any task will do
    logit_positions, targets, weights = [], [], []
    tokens = 0
    for sequence, indices in enumerate(sequences):
        offset = 0
        for segment, index in enumerate(indices, start=1):
            row, prompt = rows[index]
            length, answer = len(row) - 1, len(row) - prompt
            columns = slice(offset, offset + length)
            input_ids[sequence, columns] = row[:-1]
            position_ids[sequence, columns] = np.arange(length)
            segment_ids[sequence, columns] = segment
            if tasks is not None:
                task_ids[sequence, columns] = tasks[index]
            start = sequence * width + offset + prompt - 1
            logit_positions.append(np.arange(start, start + answer))
            targets.append(row[prompt:])
            weights.append(np.full(answer, 1 / (answer * batch_rows), dtype=np.float32))
            offset += length
            tokens += length
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        segment_ids=torch.from_numpy(segment_ids) if mask else None,
        logit_positions=torch.from_numpy(np.concatenate(logit_positions)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        weights=torch.from_numpy(np.concatenate(weights)),
        tokens=tokens,
        task_ids=None if tasks is None else torch.from_numpy(task_ids if mask else task_ids[:, 0].copy()),
    )
