"""Loss and score on a fixed seeded sample of each task's validation rows, during training.

Classification: the serving engine's code scores the labels (`best_labels` in ``engine/classification/scoring.py``), so
the score is exactly the task's metric, and the loss is the gold label's. Generation: greedy answers would cost more
than training, so the score is a *proxy*: the mean over rows of the share of the reference's tokens (EOS included) that
are the model's first choice when it is given the reference's tokens before them. It ranks checkpoints of one task; it
is not that task's metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from multitask_api.bundle import ForwardPath
from multitask_api.stage_io.results import TaskPoint
from multitask_serving.engine.classification.scoring import best_labels
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.model.backbone import MASKED, Backbone, eval_mode
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.metrics import score
from multitask_trainer.training.batching.batches import padded
from multitask_trainer.training.batching.dataset import EncodedDataset, TaskEncoder
from multitask_trainer.training.batching.sampler import fixed_sample
from multitask_trainer.training.loss import target_logits

MAX_ROWS = 500
SAMPLE_SEED = 17
"""The same for every run: runs with other seeds are compared by their scores on these rows."""


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
        chosen = fixed_sample(len(rows), MAX_ROWS, seed=SAMPLE_SEED, name=encoder.task.name, purpose="validation")
        sample = [rows[index] for index in chosen]
        trie = LabelTrie.build(encoder.labels, encoder.eos) if encoder.labels else None
        return cls(encoder, encoder.encode(sample), tuple(row.answer for row in sample), trie, path)

    def run(self, model: nn.Module, *, token_budget: int) -> TaskPoint:
        """Loss and score of ``model``."""
        if self.trie is not None:
            return self._classification(model, self.trie, token_budget)
        return self._generation(model, token_budget)

    def _classification(self, model: nn.Module, trie: LabelTrie, token_budget: int) -> TaskPoint:
        prompts = [self.dataset.prompt(row) for row in range(len(self.dataset))]
        task = self.encoder.task
        index = {label: number for number, label in enumerate(trie.labels)}
        tokens = np.array([len(label.ids) + 1 for label in self.encoder.labels])
        gold = np.array([index[label] for label in self.gold])
        best, gold_scores = best_labels(model, prompts, trie, gold, path=self.path, token_budget=token_budget)
        predictions = [trie.labels[number] for number in best]
        losses = -gold_scores / tokens[gold]
        value = score(task.metric, predictions, [[label] for label in self.gold], task.labels, task.language)
        return TaskPoint(loss=float(losses.mean()), score=value)

    def _generation(self, model: nn.Module, token_budget: int) -> TaskPoint:
        backbone = Backbone.of(model, self.path)
        rows = [self.dataset.row(index) for index in range(len(self.dataset))]
        loss = right = 0.0
        with eval_mode(model):
            for micro_batch in padded(
                rows, batch_rows=len(rows), token_budget=token_budget, mixed_lengths=self.path.right_padding
            ):
                batch = micro_batch.to(backbone.device)
                logits = target_logits(backbone, batch)
                loss += float((cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum())
                right += float(((logits.argmax(-1) == batch.targets) * batch.weights).sum())
        return TaskPoint(loss=loss, score=right)


def validate(
    model: nn.Module,
    tasks: Mapping[str, TaskValidation],
    *,
    select: Callable[[str], AbstractContextManager[None]],
    device: torch.device,
    mixed: bool,
) -> dict[str, TaskPoint]:
    """Every task's point, with the weights that ``select`` chooses for it.

    ``mixed`` computes in bf16, as training does.
    """
    budget = 4096 if device.type == "cpu" else 65536
    points = {}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
        for name, task in tasks.items():
            with select(name):
                points[name] = task.run(model, token_budget=budget)
    return points
