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
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from multitask_api.bundle import ForwardPath
from multitask_api.resource.tuning import Tuning
from multitask_trainer.affinity.sketch import Floats, sketch
from multitask_trainer.data.rows import Row
from multitask_trainer.training.batching.batches import padded
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.batching.sampler import permutation, task_key
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


def task_sketches(
    probe: Probe,
    encoder: TaskEncoder,
    rows: Sequence[Row],
    *,
    seed: int,
    path: ForwardPath,
    token_budget: int,
    report: Callable[[int, int], None] = lambda step, total: None,
) -> Floats:
    """(chunks, size): the sketch of the mean gradient over each part of ``rows``, which are in random order."""
    device = next(iter(probe.weights.values())).device
    loss = RowMeanLoss(probe.model, path)
    edges = np.linspace(0, len(rows), chunk_count(len(rows)) + 1).round().astype(int).tolist()
    found = []
    for number, (begin, end) in enumerate(pairwise(edges)):
        report(number, len(edges) - 1)
        own, swapped = _with_answers_of_others(rows[begin:end])
        probe.model.zero_grad(set_to_none=True)
        for part, sign in ((own, 1.0), (swapped, -1.0)):
            dataset = encoder.encode(part)
            encoded = [dataset.row(index) for index in range(len(part))]
            batches = padded(
                encoded, batch_rows=end - begin, token_budget=token_budget, mixed_lengths=path.right_padding
            )
            for batch in batches if encoded else ():
                (sign * loss(batch.to(device))).backward()
        present = [(name, value.grad) for name, value in probe.weights.items() if value.grad is not None]
        found.append(sketch(present, seed=seed))
    return np.stack(found)


def chosen_rows(rows: Sequence[Row], limit: int, *, task: str, seed: int) -> list[Row]:
    """At most ``limit`` of a task's rows, in random order."""
    order = permutation(len(rows), seed=seed, key=task_key(task, "gradients"), index=0)
    return [rows[index] for index in order[:limit]]


def chunk_count(rows: int) -> int:
    """In how many parts so many rows are divided."""
    return max(1, min(CHUNKS, rows // _SMALLEST_CHUNK))


def _with_answers_of_others(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows, and the same rows each with the answer of another; without those to which that makes no difference.

    In the order of the answers every row gets the one that is half of the rows further on: a different one, unless an
    answer has more than half of the rows. All answers are dealt, so each occurs as often as before.
    """
    ordered = sorted(rows, key=lambda row: row.answer)
    pairs = [(row, ordered[(index + len(rows) // 2) % len(rows)]) for index, row in enumerate(ordered)]
    pairs = [(row, other) for row, other in pairs if row.answer != other.answer]
    swapped = [replace(row, label=other.label, targets=other.targets) for row, other in pairs]
    return [row for row, _ in pairs], swapped
