"""The rows of a training run's steps, drawn by the sampler and laid out for one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from multitask_api.estimates.fitting import PACK_WIDTH
from multitask_trainer.training.batching.batches import EncodedRow, MicroBatch, packed, padded
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler


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
    mixed_lengths: bool = True
    """Whether rows of different length share a micro-batch, padded."""
    process: int = 0
    processes: int = 1

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
        if self.pack:
            return packed(
                rows,
                batch_rows=self.batch_rows,
                token_budget=self.token_budget,
                width=PACK_WIDTH,
                mixed_lengths=self.mixed_lengths,
                tasks=tasks,
            )
        return padded(
            rows,
            batch_rows=self.batch_rows,
            token_budget=self.token_budget,
            mixed_lengths=self.mixed_lengths,
            tasks=tasks,
        )

    @property
    def width(self) -> int:
        """Tokens of a sequence in the largest micro-batch: of a packed one, or of the longest row."""
        return max(PACK_WIDTH, self._longest_row) if self.pack else self._longest_row

    @property
    def step_tokens(self) -> int:
        """Tokens of a step's sequences in this process, if all rows were as long as the longest."""
        rows = -(-self.batch_rows // self.processes)
        a_sequence = max(1, self.width // self._longest_row)
        return -(-rows // a_sequence) * self.width

    def longest(self, sequences: int) -> MicroBatch:
        """So many sequences that are full of the longest row of all tasks.

        They have as many targets as all rows of a step at the most: a step's micro-batch may have many short rows.
        """
        task = max(range(len(self.datasets)), key=lambda index: self.datasets[index].longest)
        ids = self.datasets[task].longest_row
        count = sequences * max(1, self.width // self._longest_row)
        targets = self.batch_rows * max(dataset.longest_answer for dataset in self.datasets)
        row = (ids, max(1, len(ids) - -(-targets // count)))
        layout: Any = {"batch_rows": count, "token_budget": sequences * self.width, "tasks": [task] * count}
        batches = packed([row] * count, width=self.width, **layout) if self.pack else padded([row] * count, **layout)
        return batches[0]

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
