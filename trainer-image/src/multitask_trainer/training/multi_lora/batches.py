"""Micro-batches with rows of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from multitask_trainer.training.batching.batches import EncodedRow, MicroBatch, packed, padded
from multitask_trainer.training.batching.task_batches import TaskBatches


@dataclass(frozen=True)
class JointBatches:
    """The rows of several runs, each at a step of its own. The ``task_ids`` of micro-batches are indices of runs.

    A sequence has rows of one run only. All runs have equally many rows a step, and settings that give one layout.
    """

    runs: Sequence[TaskBatches]
    token_budget: int
    """Tokens of a micro-batch, padding included."""

    def rows(self, run: int, step: int) -> list[EncodedRow]:
        """The rows of one run's step, those that it has alone."""
        batches = self.runs[run]
        batch = batches.sampler.at(step)
        return [
            batches.datasets[task].row(row) for task, row in zip(batch.tasks.tolist(), batch.rows.tolist(), strict=True)
        ]

    def lay_out(self, rows: Mapping[int, Sequence[EncodedRow]]) -> list[MicroBatch]:
        """Run → the rows of its step, in micro-batches; a row's weight is that in the global batch of its run."""
        first = self.runs[0]
        if first.pack:
            width = self.width
            lines = [line for run, own in rows.items() for line in self._packed(run, own, width)]
            count = max(1, self.token_budget // width)
            return [_joined(lines[begin : begin + count]) for begin in range(0, len(lines), count)]
        return padded(
            [row for own in rows.values() for row in own],
            batch_rows=first.batch_rows,
            token_budget=self.token_budget,
            mixed_lengths=first.mixed_lengths,
            tasks=[run for run, own in rows.items() for _ in own],
        )

    @property
    def width(self) -> int:
        """See `BatchSizes`."""
        return max(run.width for run in self.runs)

    @property
    def step_tokens(self) -> int:
        """See `BatchSizes`."""
        return sum(run.step_tokens for run in self.runs)

    def longest(self, sequences: int) -> MicroBatch:
        """See `BatchSizes`; all of one run."""
        run = max(range(len(self.runs)), key=lambda index: self.runs[index].width)
        return _of_run(self.runs[run].longest(sequences), run)

    def with_budget(self, tokens: int) -> JointBatches:
        """The same rows in micro-batches of at most ``tokens`` tokens, but of one row at least."""
        return replace(self, token_budget=tokens)

    def _packed(self, run: int, rows: Sequence[EncodedRow], width: int) -> list[MicroBatch]:
        """One micro-batch for each packed sequence."""
        lines = packed(rows, batch_rows=self.runs[run].batch_rows, token_budget=width, width=width)
        return [_of_run(line, run) for line in lines]


def _of_run(batch: MicroBatch, run: int) -> MicroBatch:
    return replace(batch, task_ids=torch.full((len(batch.input_ids),), run, dtype=torch.int64))


def _joined(batches: Sequence[MicroBatch]) -> MicroBatch:
    """The sequences of micro-batches of one width, one after the other."""
    sizes = [batch.input_ids.numel() for batch in batches]
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]

    def joined(name: str) -> torch.Tensor:
        return torch.cat([getattr(batch, name) for batch in batches])

    return MicroBatch(
        input_ids=joined("input_ids"),
        position_ids=joined("position_ids"),
        segment_ids=joined("segment_ids"),
        logit_positions=torch.cat(
            [batch.logit_positions + offset for batch, offset in zip(batches, offsets, strict=True)]
        ),
        targets=joined("targets"),
        weights=joined("weights"),
        tokens=sum(batch.tokens for batch in batches),
        task_ids=joined("task_ids"),
    )
