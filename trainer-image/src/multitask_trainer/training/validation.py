"""Loss and score on a fixed seeded sample of each task's validation rows, during training.

Classification: the serving engine's code scores the labels (`best_labels` in ``engine/classification/scoring.py``), so
the score is exactly the task's metric, and the loss is the gold label's. Generation: greedy answers would cost more
than training, so the score is a *proxy*: the mean over rows of the share of the reference's tokens (EOS included) that
are the model's first choice when it is given the reference's tokens before them. It ranks checkpoints of one task; it
is not that task's metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from multitask_api.bundle import ForwardPath
from multitask_api.stage_io.results import TaskPoint
from multitask_serving.engine.batching import micro_batches
from multitask_serving.engine.classification.scoring import best_labels
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.model.backbone import MASKED, Backbone, eval_mode
from multitask_trainer.data.rows import PreparedSplit, Row
from multitask_trainer.evaluation.metrics import score
from multitask_trainer.runtime.balance import balanced_shares
from multitask_trainer.runtime.collectives import gather_results
from multitask_trainer.training.batching.dataset import EncodedDataset, TaskEncoder
from multitask_trainer.training.batching.layouts import padded
from multitask_trainer.training.batching.row_cache import RowCache
from multitask_trainer.training.batching.sampler import fixed_sample
from multitask_trainer.training.loss import target_logits

if TYPE_CHECKING:
    from accelerate import Accelerator

RowValues = NDArray[np.float64]
"""(rows, 2): a row's loss, the mean of its target tokens' in nats; and the number of the label that the model chooses,
or the share of the target tokens that are its first choice."""

MAX_ROWS = 500
SAMPLE_SEED = 17
"""The same for every run: runs with other seeds are compared by their scores on these rows."""
TOKEN_BUDGETS = {"cpu": 4096, "cuda": 16384}
"""Padded tokens of a batch. A GPU has enough to do with these, and a task has several batches to share out."""


@dataclass(frozen=True)
class TaskValidation:
    """One task's sample, encoded."""

    encoder: TaskEncoder
    dataset: EncodedDataset
    gold: tuple[str, ...]
    trie: LabelTrie | None
    path: ForwardPath = MASKED
    """How the model is run."""

    @classmethod
    def of(cls, encoder: TaskEncoder, rows: Sequence[Row], path: ForwardPath = MASKED) -> TaskValidation:
        """Take at most `MAX_ROWS` rows."""
        sample = [rows[number] for number in _sample(encoder, len(rows))]
        return cls._of_sample(encoder, sample, encoder.encode(sample), path)

    @classmethod
    def of_split(
        cls, encoder: TaskEncoder, split: PreparedSplit, cache: RowCache, path: ForwardPath = MASKED
    ) -> TaskValidation:
        """The same rows as `of` takes; they alone are read, and encoded unless another stage has done it."""
        numbers = _sample(encoder, len(split))
        return cls._of_sample(encoder, split.take(numbers), cache.encode(encoder, split, numbers), path)

    @classmethod
    def _of_sample(
        cls, encoder: TaskEncoder, sample: Sequence[Row], dataset: EncodedDataset, path: ForwardPath
    ) -> TaskValidation:
        trie = LabelTrie.build(encoder.labels, encoder.eos) if encoder.labels else None
        return cls(encoder, dataset, tuple(row.answer for row in sample), trie, path)

    def batches(self, token_budget: int) -> list[list[int]]:
        """Every row once, in batches of similar length with at most ``token_budget`` padded tokens (one row at least).

        They depend on nothing else, so a row has the same neighbours however many processes share the batches.
        """
        return list(micro_batches([self._width(row) for row in range(len(self.dataset))], token_budget))

    def cost(self, rows: Sequence[int]) -> int:
        """Padded tokens of a batch."""
        return len(rows) * max(self._width(row) for row in rows)

    def evaluate_batch(self, model: nn.Module, rows: Sequence[int], *, token_budget: int) -> RowValues:
        """The values of these rows, in their order."""
        if self.trie is not None:
            return self._classification(model, self.trie, rows, token_budget)
        return self._generation(model, rows, token_budget)

    def point(self, values: RowValues) -> TaskPoint:
        """Loss and score from the values of all rows."""
        losses, others = values.T
        if self.trie is None:
            return TaskPoint(loss=float(losses.mean()), score=float(others.mean()))
        task = self.encoder.task
        predictions = [self.trie.labels[int(number)] for number in others]
        value = score(task.metric, predictions, [[label] for label in self.gold], task.labels, task.language)
        return TaskPoint(loss=float(losses.mean()), score=value)

    def _width(self, row: int) -> int:
        """Tokens of the sequence that is run for a row."""
        ids, prompt = self.dataset.row(row)
        if self.trie is None:
            return len(ids) - 1
        return prompt + (self.trie.size if self.trie.size <= prompt else len(ids) - prompt - 1)

    def _classification(self, model: nn.Module, trie: LabelTrie, rows: Sequence[int], token_budget: int) -> RowValues:
        prompts = [self.dataset.prompt(row) for row in rows]
        index = {label: number for number, label in enumerate(trie.labels)}
        tokens = np.array([len(label.ids) + 1 for label in self.encoder.labels])
        gold = np.array([index[self.gold[row]] for row in rows])
        best, gold_scores = best_labels(model, prompts, trie, gold, path=self.path, token_budget=token_budget)
        return np.stack([-gold_scores / tokens[gold], best], axis=1)

    def _generation(self, model: nn.Module, rows: Sequence[int], token_budget: int) -> RowValues:
        backbone = Backbone.of(model, self.path)
        encoded = [self.dataset.row(row) for row in rows]
        losses, right = [], []
        with eval_mode(model):
            for micro_batch in padded(
                encoded, batch_rows=len(rows), token_budget=token_budget, mixed_lengths=self.path.right_padding
            ):
                batch = micro_batch.to(backbone.device)
                logits = target_logits(backbone, batch)
                losses.append(cross_entropy(logits, batch.targets, reduction="none").double().cpu())
                right.append((logits.argmax(-1) == batch.targets).double().cpu())
        # `padded` has sorted the rows.
        order = sorted(range(len(rows)), key=lambda index: -len(encoded[index][0]))
        counts = np.array([len(encoded[index][0]) - encoded[index][1] for index in order])
        by_token = np.stack([torch.cat(losses).numpy(), torch.cat(right).numpy()], axis=1)
        values = np.empty((len(rows), 2))
        values[order] = np.add.reduceat(by_token, np.cumsum(counts) - counts) / counts[:, None]
        return values


def _sample(encoder: TaskEncoder, rows: int) -> NDArray[np.int64]:
    return fixed_sample(rows, MAX_ROWS, seed=SAMPLE_SEED, name=encoder.task.name, purpose="validation")


def validate(
    model: nn.Module,
    tasks: Mapping[str, TaskValidation],
    *,
    select: Callable[[str], AbstractContextManager[None]],
    accelerator: Accelerator,
    together: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, TaskPoint]:
    """Every task's point, with the weights that ``select`` chooses for it; ``together``: see `Parallelism.evaluation`.

    All processes call this. Each runs its share of the batches, the main process makes the points from the rows' values
    in the rows' order, and all get these points. They are those of one process, to the last bit where the processes
    compute alike. An error in one process ends all (`gather_results`). With mixed precision it computes in bf16, as
    training does.
    """
    budget = TOKEN_BUDGETS[accelerator.device.type]
    batches = [(name, rows) for name, task in tasks.items() for rows in task.batches(budget)]
    shares = balanced_shares([tasks[name].cost(rows) for name, rows in batches], accelerator.num_processes)

    def evaluate_share() -> dict[int, RowValues]:
        values = {}
        with together():
            for number in shares[accelerator.process_index]:
                name, rows = batches[number]
                with select(name):
                    values[number] = tasks[name].evaluate_batch(model, rows, token_budget=budget)
        return values

    with torch.autocast(accelerator.device.type, dtype=torch.bfloat16, enabled=accelerator.mixed_precision == "bf16"):
        gathered = gather_results(evaluate_share, accelerator)
    values = {number: of_batch for share in gathered for number, of_batch in share.items()}
    return gather_results(lambda: _points(tasks, batches, values) if accelerator.is_main_process else {}, accelerator)[
        0
    ]


def _points(
    tasks: Mapping[str, TaskValidation], batches: Sequence[tuple[str, list[int]]], values: Mapping[int, RowValues]
) -> dict[str, TaskPoint]:
    """By task, from the values of each batch."""
    of_rows = {name: np.empty((len(task.dataset), 2)) for name, task in tasks.items()}
    for number, (name, rows) in enumerate(batches):
        of_rows[name][rows] = values[number]
    return {name: task.point(of_rows[name]) for name, task in tasks.items()}
