"""How the rows of a micro-batch lie in its sequences.

Three layouts give the same loss. *Padded*: rows sorted by length, one a sequence, padded on the right; causal attention
does not read what follows, so no mask is needed. *Packed*: several rows a sequence, for GPUs, where padding costs more
than keeping rows apart. With an explicit block-diagonal mask attention costs the square of a sequence's width, whatever
the mask leaves out, so rows that are wider than a pack are padded instead. *Varlen*: packed for attention that is given
the rows' lengths, and costs the squares of those (``training/attention``); then no padding is needed, and a micro-batch
is one sequence. ``position_ids`` are explicit in all: each row counts from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from multitask_trainer.training.batching.batches import EncodedRow, MicroBatch

Layout = Literal["Padded", "Masked", "Varlen"]

_MICRO_BATCH_COST = 100
"""What starting one more pass through a small model costs, in tokens (measured: about 4 ms against 40 µs a token)."""
GPU_MICRO_BATCH_COST = 2048
"""The same on a GPU, where a pass takes ten milliseconds or more to be launched. Not measured."""
_ATTENTION_WIDTH = 4096
"""Attention with a mask over sequences of that width takes as long as all else. Not measured; grows with the model."""


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
            layout="Padded",
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
        collate(rows, sequences[begin : begin + count], width, batch_rows, layout="Masked", tasks=tasks)
        for begin in range(0, len(sequences), count)
    ]


def varlen(
    rows: Sequence[EncodedRow],
    *,
    batch_rows: int,
    token_budget: int,
    tasks: Sequence[int] | None = None,
) -> list[MicroBatch]:
    """Rows one after the other, for varlen attention: a micro-batch is one sequence without padding.

    It has at most ``token_budget`` tokens (one row at least). ``tasks`` has the index of each row's task.
    """
    lengths = [len(ids) - 1 for ids, _ in rows]
    return [
        collate(rows, [own], sum(lengths[row] for row in own), batch_rows, layout="Varlen", tasks=tasks)
        for own in first_fit(list(enumerate(lengths)), token_budget)
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
    layout: Layout,
    tasks: Sequence[int] | None,
) -> MicroBatch:
    """``sequences`` are lists of row numbers; ``batch_rows`` is the size of the global batch, for the rows' weights."""
    input_ids = np.zeros((len(sequences), width), dtype=np.int64)
    # Padding is segment 0 and attends to itself, so that every token attends to something.
    position_ids = np.tile(np.arange(width, dtype=np.int64), (len(sequences), 1))
    segment_ids = np.zeros((len(sequences), width), dtype=np.int32)
    task_ids = np.zeros((len(sequences), width), dtype=np.int64)  # of padding, any task will do
    logit_positions, targets, weights = [], [], []
    begins = []  # of rows, and of what follows the last one of a sequence
    tokens = 0
    for sequence, indices in enumerate(sequences):
        offset = 0
        for segment, index in enumerate(indices, start=1):
            begins.append(sequence * width + offset)
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
        if offset < width:
            begins.append(sequence * width + offset)
    lengths = np.array([*begins, input_ids.size], dtype=np.int32)
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        segment_ids=torch.from_numpy(segment_ids) if layout == "Masked" else None,
        logit_positions=torch.from_numpy(np.concatenate(logit_positions)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        weights=torch.from_numpy(np.concatenate(weights)),
        tokens=tokens,
        task_ids=None if tasks is None else torch.from_numpy(task_ids[:, 0].copy() if layout == "Padded" else task_ids),
        cumulative_lengths=torch.from_numpy(lengths) if layout == "Varlen" else None,
        longest_row=int(np.diff(lengths).max()) if layout == "Varlen" else 0,
    )
