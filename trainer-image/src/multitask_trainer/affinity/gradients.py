"""The gradient of what a task's answers have to do with its inputs, at the base model, for several parts of its rows.

At a base model the largest part of a task's gradient is the same for all tasks of a form: it makes the model answer
with one of the labels at all, and as often as each occurs. It says nothing about what is learnt from the text: two
tasks with the same texts and opposite labels share it. It is the expected gradient with the answers of the task dealt
to its rows at random, so it is subtracted: every row counts with its own answer, and against it with that of another
row of the task.

The gradients are those of LoRA's second factor where it is still zero, in every layer that LoRA can adapt: the full
gradient of a weight times a random matrix, that is a random projection of it, whatever the tuning method is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from multitask_api.bundle import ForwardPath
from multitask_api.resource.tuning import Tuning
from multitask_trainer.affinity.sketch import Floats, sketch
from multitask_trainer.errors import MicroBatchTooLarge
from multitask_trainer.training.batching.batches import EncodedRow
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.layouts import padded
from multitask_trainer.training.batching.sampler import permutation, task_key
from multitask_trainer.training.device_memory import halve_until_it_fits
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.tuning import tuning_method

RANK = 16
"""Columns of the random matrix of each layer."""
CHUNKS = 32
"""Parts of the rows, each with a gradient of its own: how much they differ says how much is noise."""
_SMALLEST_CHUNK = 2
"""Rows that a part needs: every row gets the answer of another."""


@dataclass(frozen=True)
class Probe:
    """A base model with the weights whose gradients are taken."""

    model: nn.Module
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, base: PreTrainedModel, target_modules: tuple[str, ...], *, seed: int) -> Probe:
        """Random matrices from ``seed``, the same for every task. Raises `StageError` if nothing can be adapted."""
        torch.manual_seed(seed)
        tuning = Tuning(method="LoRA", rank=RANK, alpha=RANK, target_modules=target_modules)
        model = tuning_method(tuning).prepare(base).eval()
        weights = {name: value for name, value in model.named_parameters() if "lora_B" in name and value.requires_grad}
        for name, value in model.named_parameters():
            value.requires_grad = name in weights
        return cls(model, weights)


@dataclass(frozen=True)
class ProbedRows:
    """The rows of a task whose gradients are taken, in random order."""

    dataset: EncodedDataset
    """All training rows of the task."""
    numbers: Sequence[int]
    answers: Sequence[str]
    """Of each of the ``numbers``."""

    def __len__(self) -> int:
        return len(self.numbers)

    def with_answers_of_others(self, begin: int, end: int) -> tuple[list[EncodedRow], list[EncodedRow]]:
        """A part of the rows, and the same rows each with the answer of another; without those to which that makes no
        difference.

        In the order of the answers every row gets the one that is half of the rows further on: a different one, unless
        an answer has more than half of the rows. All answers are dealt, so each occurs as often as before.
        """
        ordered = sorted(range(begin, end), key=lambda place: self.answers[place])
        pairs = [(place, ordered[(rank + len(ordered) // 2) % len(ordered)]) for rank, place in enumerate(ordered)]
        rows = [
            (self.numbers[place], self.numbers[other])
            for place, other in pairs
            if self.answers[place] != self.answers[other]
        ]
        own = [self.dataset.row(number) for number, _ in rows]
        return own, [self.dataset.row_answered_by(number, other) for number, other in rows]


def task_sketches(
    probe: Probe,
    rows: ProbedRows,
    *,
    seed: int,
    path: ForwardPath,
    token_budget: int,
    mixed: bool = False,
    report: Callable[[int, int], None] = lambda step, total: None,
) -> Floats:
    """(chunks, size): the sketch of the mean gradient over each part of ``rows``.

    ``token_budget`` are the tokens of a micro-batch at the most; where they do not fit into the memory, half as many
    from then on. ``mixed``: computed in bf16 (autocast).
    """
    passes = _Passes(probe, RowMeanLoss(probe.model, path), path, token_budget, mixed=mixed)
    edges = np.linspace(0, len(rows), chunk_count(len(rows)) + 1).round().astype(int).tolist()
    found = []
    for number, (begin, end) in enumerate(pairwise(edges)):
        report(number, len(edges) - 1)
        passes.run(*rows.with_answers_of_others(begin, end), batch_rows=end - begin)
        present = [(name, value.grad) for name, value in probe.weights.items() if value.grad is not None]
        found.append(sketch(present, seed=seed))
    return np.stack(found)


@dataclass
class _Passes:
    """Forward and backward passes over parts of the rows."""

    probe: Probe
    loss: RowMeanLoss
    path: ForwardPath
    token_budget: int
    mixed: bool

    def run(self, own: Sequence[EncodedRow], swapped: Sequence[EncodedRow], *, batch_rows: int) -> None:
        """Leave the gradient of ``own`` minus that of ``swapped``, both sums over rows divided by ``batch_rows``.

        Raises `MicroBatchTooLarge` if one row does not fit.
        """
        longest = max((len(ids) for ids, _ in (*own, *swapped)), default=0)

        def add_all() -> None:
            self.probe.model.zero_grad(set_to_none=True)
            try:
                for rows, sign in ((own, 1.0), (swapped, -1.0)):
                    self._add(rows, sign, batch_rows)
            except torch.OutOfMemoryError as error:
                self.probe.model.zero_grad(set_to_none=True)
                raise MicroBatchTooLarge(
                    f"rows do not fit into the GPU's memory, which another process may have taken: {error}"
                ) from None

        halve_until_it_fits(add_all, tokens=self.token_budget, least=longest, use=self._use_budget)

    def _use_budget(self, tokens: int) -> None:
        self.token_budget = tokens

    def _add(self, rows: Sequence[EncodedRow], sign: float, batch_rows: int) -> None:
        device = next(iter(self.probe.weights.values())).device
        batches = padded(
            rows, batch_rows=batch_rows, token_budget=self.token_budget, mixed_lengths=self.path.right_padding
        )
        for batch in batches if rows else ():
            with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
                loss = self.loss(batch.to(device))
            (sign * loss).backward()


def chosen_rows(count: int, limit: int, *, task: str, seed: int) -> NDArray[np.int64]:
    """At most ``limit`` of the numbers of a task's ``count`` rows, in random order."""
    return permutation(count, seed=seed, key=task_key(task, "gradients"), index=0)[:limit]


def chunk_count(rows: int) -> int:
    """In how many parts so many rows are divided."""
    return max(1, min(CHUNKS, rows // _SMALLEST_CHUNK))
