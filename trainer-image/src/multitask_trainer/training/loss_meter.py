"""Sums loss and tokens of the steps of all processes, and reads them no more often than the device allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from accelerate import Accelerator

STEPS_PER_READ = 10
"""On a GPU the loss is read this often: reading it waits for the device."""


@dataclass(frozen=True)
class LossReading:
    """Sums over all processes since the last reading; ``loss_sum`` is in nats, over ``steps`` steps."""

    loss_sum: float
    steps: int
    tokens: int


class LossMeter:
    """The loss stays on the device until it is read."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._loss = torch.zeros((), device=accelerator.device)
        self._steps = 0
        self._tokens = 0

    def add_micro_batch(self, loss: Tensor, tokens: int) -> None:
        """Count one micro-batch of this process."""
        self._loss += loss.detach()
        self._tokens += tokens

    def end_step(self) -> None:
        """All micro-batches of a step are counted."""
        self._steps += 1

    def is_due(self, step: int) -> bool:
        """Whether to read after ``step`` steps; the same in all processes."""
        return self._accelerator.device.type == "cpu" or step % STEPS_PER_READ == 0

    def read(self, step: int) -> LossReading | None:
        """What was counted since the last reading, None if nothing was; a collective operation of all processes.

        Raises `StageError` if the loss is not finite; ``step`` is for its message.
        """
        if not self._steps:
            return None
        total = float(self._accelerator.reduce(self._loss, "sum"))
        if not math.isfinite(total):
            raise StageError(
                f"the training loss is {total} at step {step}; lower training.learningRate or raise "
                "training.warmupSteps"
            )
        tokens = self._tokens
        if self._accelerator.num_processes > 1:
            tokens = int(self._accelerator.reduce(torch.tensor(tokens, device=self._accelerator.device), "sum"))
        reading = LossReading(total, self._steps, tokens)
        self._loss.zero_()
        self._steps = self._tokens = 0
        return reading
