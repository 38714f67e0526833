"""The loop of several runs: one pass makes the gradients of all; each run has its own steps, validations and end."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multitask_trainer.errors import MicroBatchTooLarge
from multitask_trainer.training.accelerator import catch_sigterm
from multitask_trainer.training.batching.batches import EncodedRow
from multitask_trainer.training.device_memory import CudaMemory
from multitask_trainer.training.loop import TrainingLoop
from multitask_trainer.training.micro_batch import MicroBatchSize, fit
from multitask_trainer.training.multi_lora.batches import JointBatches
from multitask_trainer.training.multi_lora.step import AdapterStep, JointStep

if TYPE_CHECKING:
    from accelerate import Accelerator

_ONE_TASK = torch.ones(1, dtype=torch.bool)


@dataclass(frozen=True)
class Member:
    """One of the runs: its loop, and the optimizer of its adapter."""

    loop: TrainingLoop
    step: AdapterStep


class JointLoop:
    """``members`` are the runs, by the index that they have in ``batches`` and among the adapters."""

    def __init__(
        self, members: Sequence[Member], step: JointStep, batches: JointBatches, accelerator: Accelerator
    ) -> None:
        self._open = dict(enumerate(members))
        self._step = step
        self._batches = batches
        self._accelerator = accelerator
        self._errors: dict[int, Exception] = {}
        self.micro_batch = MicroBatchSize(batches.token_budget, step.is_checkpointing)

    def fit(self) -> None:
        """Find the size of micro-batches on a GPU. Raises `StageError` or `GpuInUse` if so many runs do not fit."""
        if self._accelerator.device.type == "cuda":
            memory = CudaMemory(self._accelerator.device)
            self._set_micro_batch(fit(self._step, self._batches, self._accelerator, memory))

    def run(self) -> Iterator[tuple[int, Exception | None]]:
        """Train all runs; gives each as it ends, with the chosen weights in its adapter or the error that ended it.

        An error of one run ends that run alone; raises what ends all of them. At SIGTERM every run leaves a checkpoint
        and ends with `Interrupted`.
        """
        self._step.loss.train()
        with catch_sigterm() as stop_requested:
            self._each(lambda _, member: member.loop.resume())
            while self._open or self._errors:
                yield from self._ended()
                if stop_requested():
                    self._each(_interrupt)
                elif self._open:
                    self._advance()

    def _ended(self) -> Iterator[tuple[int, Exception | None]]:
        """Take the runs that have ended out of those that train."""
        finished = [index for index, member in self._open.items() if member.loop.has_ended]
        self._each(lambda index, member: member.loop.finish() if index in finished else None)
        while self._errors:
            yield self._errors.popitem()
        for index in finished:
            if self._open.pop(index, None) is not None:
                yield index, None

    def _advance(self) -> None:
        """One step of every run."""
        begun = time.monotonic()
        rates = {index: member.loop.begin_step() for index, member in self._open.items()}
        rows = {index: self._batches.rows(index, member.loop.progress.step) for index, member in self._open.items()}
        tokens = {index: sum(len(ids) - 1 for ids, _ in own) for index, own in rows.items()}
        losses = self._losses(rows)

        def step(index: int, member: Member) -> None:
            member.loop.meter.add_micro_batch(losses[index], tokens[index])
            member.step.apply(_ONE_TASK, rate=rates[index])
            member.loop.count_step()

        self._each(step)
        self._step.optimizer.zero_grad(set_to_none=True)
        # By its tokens each run has its share of the time; so tokens a second are those of the process.
        a_token = (time.monotonic() - begun) / sum(tokens.values())
        self._each(lambda index, member: member.loop.end_step(a_token * tokens[index]))

    def _losses(self, rows: Mapping[int, Sequence[EncodedRow]]) -> Tensor:
        """Make the gradients of a step; the loss of each run, (runs,)."""
        while True:
            try:
                return self._step.losses(self._batches.lay_out(rows))
            except MicroBatchTooLarge:
                if self._batches.token_budget <= self._batches.width:
                    raise
            gc.collect()
            torch.cuda.empty_cache()
            tokens = max(self._batches.width, self._batches.token_budget // 2)
            self._set_micro_batch(replace(self.micro_batch, tokens=tokens))

    def _set_micro_batch(self, size: MicroBatchSize) -> None:
        self.micro_batch, self._batches = size, self._batches.with_budget(size.tokens)
        sys.stdout.write(f"{len(self._open)} runs together; a micro-batch has at most {size.tokens:,} tokens\n")
        sys.stdout.flush()

    def _each(self, action: Callable[[int, Member], object]) -> None:
        """Do it with every run that trains. A run in which it fails ends with that error, and the others go on."""
        for index, member in tuple(self._open.items()):
            try:
                action(index, member)
            except Exception as error:  # noqa: BLE001 - whatever ends one run must not end the others
                self._errors[index] = error
                del self._open[index]


def _interrupt(_: int, member: Member) -> None:
    raise member.loop.interrupt()
