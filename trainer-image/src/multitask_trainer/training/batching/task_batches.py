"""The rows of a training run's steps, drawn by the sampler and laid out for one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from multitask_api.estimates.fitting import PACK_WIDTH
from multitask_trainer.training.batching.batches import EncodedRow, MicroBatch
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.layouts import packed, padded, varlen
from multitask_trainer.training.batching.sampler import Sampler

_TRIAL_ROWS = (80, 24, 16, 8)
"""Tokens of a trial's rows at the most. Together they are a quarter of a pack, and what finds the size of a micro-batch
makes passes of a pack or more: where that fits, a trial does. The first row is wider than 64 tokens, a usual tile of
kernels."""


@dataclass(frozen=True)
class TaskBatches:
    """The sampler's rows, laid out for one process of ``processes``."""

    sampler: Sampler
    datasets: Sequence[EncodedDataset]
    """In the order of the sampler's tasks."""
    batch_rows: int
    token_budget: int
    """Tokens of a micro-batch, padding included."""
    pack: bool
    """Whether several rows share a sequence."""
    mixed_lengths: bool = True
    """Whether rows of different length share a micro-batch, padded."""
    process: int = 0
    processes: int = 1
    varlen: bool = False
    """Whether the model has `varlen_attention`, so that packed rows need neither a mask nor padding."""

    def at(self, step: int) -> list[MicroBatch]:
        """Rows are dealt to the processes by descending length, so that each has about the same number of tokens."""
        batch = self.sampler.at(step)
        tasks: list[int] = batch.tasks.tolist()
        rows: list[EncodedRow] = [
            self.datasets[task].row(row) for task, row in zip(tasks, batch.rows.tolist(), strict=True)
        ]
        if self.processes > 1:
            order = sorted(range(len(rows)), key=lambda slot: -len(rows[slot][0]))[self.process :: self.processes]
            rows, tasks = [rows[slot] for slot in order], [tasks[slot] for slot in order]
        return self._lay_out(rows, tasks, self.batch_rows, self.token_budget, PACK_WIDTH)

    def _lay_out(
        self, rows: Sequence[EncodedRow], tasks: Sequence[int], batch_rows: int, token_budget: int, pack_width: int
    ) -> list[MicroBatch]:
        layout: Any = {"batch_rows": batch_rows, "token_budget": token_budget, "tasks": tasks}
        if self.varlen:
            return varlen(rows, **layout)
        if self.pack:
            return packed(rows, width=pack_width, mixed_lengths=self.mixed_lengths, **layout)
        return padded(rows, mixed_lengths=self.mixed_lengths, **layout)

    @property
    def width(self) -> int:
        """Tokens of a sequence in the largest micro-batch: of a packed one, or of the longest row.

        Varlen: what counts as one, since a micro-batch is a single sequence of any length.
        """
        return max(PACK_WIDTH, self._longest_row) if self.pack else self._longest_row

    @property
    def step_tokens(self) -> int:
        """Tokens of a step's sequences in this process, if all rows were as long as the longest."""
        rows = -(-self.batch_rows // self.processes)
        a_sequence = max(1, self.width // self._longest_row)
        return -(-rows // a_sequence) * self.width

    @property
    def step_targets(self) -> int:
        """Target tokens of a step at the most."""
        return self.batch_rows * max(dataset.longest_answer for dataset in self.datasets)

    def longest(self, sequences: int, *, targets: int | None = None) -> MicroBatch:
        """So many sequences that are full of the longest row of all tasks.

        They have as many ``targets`` as all rows of a step at the most, unless told otherwise: a step's micro-batch may
        have many short rows.
        """
        task = max(range(len(self.datasets)), key=lambda index: self.datasets[index].longest)
        ids = self.datasets[task].longest_row
        count = sequences * max(1, self.width // self._longest_row)
        if self.varlen:  # without padding there are as many tokens of rows as the sequences are wide
            count = -(-sequences * self.width // self._longest_row)
        targets = self.step_targets if targets is None else targets
        row = (ids, max(1, len(ids) - -(-targets // count)))
        budget = max(sequences * self.width, count * self._longest_row)
        return self._lay_out([row] * count, [task] * count, count, budget, self.width)[0]

    def trial(self) -> list[MicroBatch]:
        """A few short rows of up to four tasks, of different lengths, in one short sequence."""
        rows, tasks = [], []
        for number, tokens in enumerate(_TRIAL_ROWS):
            task, row = number % len(self.datasets), number // len(self.datasets)
            ids, prompt = self.datasets[task].row(row % len(self.datasets[task]))
            left_out = max(0, len(ids) - tokens)
            rows.append((ids[left_out:], max(1, prompt - left_out)))
            tasks.append(task)
        return self._lay_out(rows, tasks, len(rows), sum(_TRIAL_ROWS), sum(_TRIAL_ROWS))

    def with_varlen(self) -> TaskBatches:
        """The same rows for a model that has `varlen_attention`."""
        return replace(self, varlen=True)

    def with_budget(self, tokens: int) -> TaskBatches:
        """See `Batches`."""
        return replace(self, token_budget=tokens)

    @property
    def _longest_row(self) -> int:
        """Its input tokens: the last one is only ever a target."""
        return max(dataset.longest for dataset in self.datasets) - 1

    def present(self, step: int) -> Tensor:
        """Of each task, whether the global batch of ``step`` has rows of it, the same in all processes."""
        present = torch.zeros(len(self.datasets), dtype=torch.bool)
        present[torch.from_numpy(self.sampler.tasks_at(step))] = True
        return present
