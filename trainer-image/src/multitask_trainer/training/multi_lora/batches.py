"""Micro-batches with rows of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from multitask_api.estimates.fitting import PACK_WIDTH
from multitask_trainer.training.batching.batches import EncodedRow, MicroBatch
from multitask_trainer.training.batching.layouts import (
    GPU_MICRO_BATCH_COST,
    Layout,
    collate,
    cuts,
    first_fit,
    padded,
)
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
        every = [row for own in rows.values() for row in own]
        owners = [run for run, own in rows.items() for _ in own]
        if self.pack:
            return self._packed(every, owners)
        return padded(
            every,
            batch_rows=first.batch_rows,
            token_budget=self.token_budget,
            mixed_lengths=first.mixed_lengths,
            tasks=owners,
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
        """See `BatchSizes`; all of one run, with as many targets as the rows of all runs have."""
        run = max(range(len(self.runs)), key=lambda index: self.runs[index].width)
        targets = sum(each.step_targets for each in self.runs)
        return _of_run(self.runs[run].longest(sequences, targets=targets), run)

    def trial(self) -> list[MicroBatch]:
        """See `TaskBatches.trial`; of two runs."""
        return [_of_run(line, run) for run, batches in enumerate(self.runs[:2]) for line in batches.trial()]

    def with_varlen(self) -> JointBatches:
        """The same rows for a model that has `varlen_attention`."""
        return replace(self, runs=[run.with_varlen() for run in self.runs])

    @property
    def pack(self) -> bool:
        """Whether several rows share a sequence."""
        return self.runs[0].pack

    def with_budget(self, tokens: int) -> JointBatches:
        """The same rows in micro-batches of at most ``tokens`` tokens, but of one row at least."""
        return replace(self, token_budget=tokens)

    def _packed(self, rows: Sequence[EncodedRow], owners: Sequence[int]) -> list[MicroBatch]:
        """Each run's rows in sequences of `PACK_WIDTH`, a longer row by itself; those of like width in a micro-batch.

        A sequence that is not full is as wide as its rows: how much is padding does not depend on the other runs.
        """
        lengths = [len(ids) - 1 for ids, _ in rows]
        sequences = [[row] for row, length in enumerate(lengths) if length > PACK_WIDTH]
        for run in dict.fromkeys(owners):
            own = [(row, lengths[row]) for row, owner in enumerate(owners) if owner == run]
            sequences += first_fit([(row, length) for row, length in own if length <= PACK_WIDTH], PACK_WIDTH)
        widths = {tuple(sequence): _aligned(sum(lengths[row] for row in sequence)) for sequence in sequences}
        ordered = sorted(widths, key=lambda sequence: -widths[sequence])
        of_all = np.array([widths[sequence] for sequence in ordered])
        return [
            _of_runs(
                collate(
                    rows,
                    ordered[begin:end],
                    int(of_all[begin]),
                    self.runs[0].batch_rows,
                    layout=self._layout_of(ordered[begin:end]),
                    tasks=owners,
                )
            )
            for begin, end in cuts(of_all, self.token_budget, GPU_MICRO_BATCH_COST)
        ]

    def _layout_of(self, sequences: Sequence[Sequence[int]]) -> Layout:
        """How the rows of a micro-batch are kept apart, and from padding."""
        if self.runs[0].varlen:
            return "Varlen"
        if self.runs[0].mixed_lengths and all(len(sequence) == 1 for sequence in sequences):
            return "Padded"
        return "Masked"


def _aligned(width: int) -> int:
    """The width of a sequence that is filled so far: kernels want that of a mask to be a multiple of 8."""
    return width if width > PACK_WIDTH else -(-width // 8) * 8


def _of_run(batch: MicroBatch, run: int) -> MicroBatch:
    return replace(batch, task_ids=torch.full((len(batch.input_ids),), run, dtype=torch.int64))


def _of_runs(batch: MicroBatch) -> MicroBatch:
    """With one index for each sequence, where ``batch`` has one for each token."""
    ids = batch.task_ids
    return batch if ids is None or ids.ndim == 1 else replace(batch, task_ids=ids[:, 0].clone())
