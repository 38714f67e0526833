"""Cuts the rows of a call into batches that fit the memory budgets and the model's `ForwardPath`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from multitask_api.bundle import ForwardPath

AdapterContext = Callable[[Sequence[int]], AbstractContextManager[object]]
"""Given the numbers of a batch's rows, a context in which the model uses each row's adapter."""

MASK_BUDGET = 1 << 26
"""Most entries of one forward pass's attention mask, rows × width²."""


def use_adapters(context: AdapterContext | None, rows: Sequence[int]) -> AbstractContextManager[object]:
    """``context`` for these rows; without adapters, one that does nothing."""
    return context(rows) if context else nullcontext()


def micro_batches(widths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar width; ``widths`` are the rows' lengths in tokens.

    A batch, padded to its widest row, has at most ``token_budget`` tokens and `MASK_BUDGET` mask entries, unless it is
    a single row. The widest rows come first, so that running out of memory shows at once. Within a batch the rows keep
    their order, so a caller that puts rows of one adapter together finds them together.
    """
    batch: list[int] = []
    widest = 0
    for row in sorted(range(len(widths)), key=lambda row: -widths[row]):
        if batch and ((len(batch) + 1) * widest > token_budget or (len(batch) + 1) * widest**2 > MASK_BUDGET):
            yield sorted(batch)
            batch = []
        if not batch:
            widest = widths[row]
        batch.append(row)
    if batch:
        yield sorted(batch)


def cached_batches(
    path: ForwardPath, lengths: Sequence[int], widths: Sequence[int], token_budget: int
) -> Iterator[list[int]]:
    """`micro_batches` of rows whose state may be kept together; ``lengths`` are those of their prompts."""
    if path.batches == "SingleRows":
        yield from ([row] for row in sorted(range(len(widths)), key=lambda row: -widths[row]))
        return
    if path.batches == "Padded":
        yield from micro_batches(widths, token_budget)
        return
    yield from _of_equal_length(lengths, widths, token_budget)


def sequence_batches(path: ForwardPath, lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """`micro_batches` of whole sequences, padded on the right only where the path allows it."""
    if path.right_padding:
        yield from micro_batches(lengths, token_budget)
    else:
        yield from _of_equal_length(lengths, lengths, token_budget)


def _of_equal_length(lengths: Sequence[int], widths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    for length in sorted(set(lengths), reverse=True):
        rows = [row for row, other in enumerate(lengths) if other == length]
        for batch in micro_batches([widths[row] for row in rows], token_budget):
            yield [rows[number] for number in batch]
