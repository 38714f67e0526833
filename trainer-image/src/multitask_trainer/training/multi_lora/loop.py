"""The loop of several runs: one pass makes the gradients of all; each run has its own steps, validations and end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multitask_trainer.errors import Interrupted, MicroBatchTooLarge
from multitask_trainer.training.accelerator import catch_sigterm
from multitask_trainer.training.batching.batches import EncodedRow
from multitask_trainer.training.device_memory import CudaMemory, halve_until_it_fits
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
        self._errors: dict[int, Exception | Interrupted] = {}
        self.micro_batch = MicroBatchSize(batches.token_budget, step.is_checkpointing)

    @property
    def open_indices(self) -> tuple[int, ...]:
        """Of the runs that `run` has not given."""
        return (*self._open, *self._errors)

    def fit(self) -> None:
        """Find the size of micro-batches on a GPU. Raises `StageError` or `GpuInUse` if so many runs do not fit."""
        if self._accelerator.device.type == "cuda":
            memory = CudaMemory(self._accelerator.device)
            self._set_micro_batch(fit(self._step, self._batches, self._accelerator, memory))

    def run(self) -> Iterator[tuple[int, Exception | Interrupted | None]]:
        """Train all runs; gives each as it ends, with the chosen weights in its adapter or the error that ended it.

        An error of one run ends that run alone. At SIGTERM every run leaves a checkpoint and ends with `Interrupted`.
        Raises what ends all of them: `MicroBatchTooLarge` where so many do not fit, after the runs that are left have
        left a checkpoint, from which each can go on by itself.

        What is done with a run that has ended is not part of the loop: SIGTERM then does what it did before. The others
        have left a checkpoint.
        """
        self._step.loss.train()
        try:
            self._each(lambda _, member: member.loop.resume())
            while self._open or self._errors:
                with catch_sigterm() as stop_requested:
                    self._train(stop_requested)
                yield from self._ended()
        finally:
            for member in self._open.values():
                member.loop.drain()

    def _train(self, stop_requested: Callable[[], bool]) -> None:
        """Steps of all runs until one of them has ended; if a stop is requested, all end."""
        while self._open:
            finished = self._finished
            if finished:
                self._finish(finished)
            if stop_requested():
                self._each(_interrupt)
            elif finished or self._errors:
                return
            else:
                self._advance()

    def _finish(self, finished: Collection[int]) -> None:
        """Make these runs ready to be given; a stop does not take from the others what they have done until then."""
        self._each(lambda index, each: each.loop.finish() if index in finished else each.loop.leave_checkpoint())

    @property
    def _finished(self) -> list[int]:
        return [index for index, member in self._open.items() if member.loop.has_ended]

    def _ended(self) -> Iterator[tuple[int, Exception | Interrupted | None]]:
        """Take the runs that have ended out of those that train."""
        while self._errors:
            yield self._errors.popitem()
        for index in self._finished:
            del self._open[index]
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
        try:
            return halve_until_it_fits(
                lambda: self._step.losses(self._batches.lay_out(rows)),
                tokens=self._batches.token_budget,
                least=self._batches.width,
                use=lambda tokens: self._set_micro_batch(replace(self.micro_batch, tokens=tokens)),
            )
        except MicroBatchTooLarge:
            self._each(lambda _, member: member.loop.leave_checkpoint())
            raise

    def _set_micro_batch(self, size: MicroBatchSize) -> None:
        self.micro_batch, self._batches = size, self._batches.with_budget(size.tokens)
        sys.stdout.write(f"{len(self._open)} runs together; a micro-batch has at most {size.tokens:,} tokens\n")
        sys.stdout.flush()

    def _each(self, action: Callable[[int, Member], object]) -> None:
        """Do it with every run that trains. A run in which it fails ends with that error, and the others go on."""
        for index, member in tuple(self._open.items()):
            try:
                action(index, member)
            except (Exception, Interrupted) as error:  # noqa: BLE001 - whatever ends one run must not end the others
                member.loop.drain()
                self._errors[index] = error
                del self._open[index]


def _interrupt(_: int, member: Member) -> None:
    raise member.loop.interrupt()
