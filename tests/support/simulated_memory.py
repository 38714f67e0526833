"""The memory of a GPU, simulated: it limits the passes of a model that runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from multitask_trainer.training.optimizer import OptimizerStep

MIB = 2**20


class SimulatedMemory:
    """A pass takes 1 MiB a token, half of it with checkpointing; ``left`` MiB are free, ``held`` by other processes."""

    def __init__(self, step: OptimizerStep, *, left: int, held: int = 0, total: int = 1000) -> None:
        self.left, self.held, self.total = left, held, total * MIB
        self.step = step
        self.tokens: list[int] = []
        model = step.loss.model
        model.get_decoder().register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _module: nn.Module, _arguments: Any, keywords: dict[str, Any]) -> None:
        """A pass begins."""
        self.tokens.append(keywords["input_ids"].numel())
        if self.used() > self.left:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def used(self) -> float:
        """MiB of the last pass."""
        layers = self.step.loss.model.get_decoder().layers
        return self.tokens[-1] * (0.5 if layers[0].gradient_checkpointing else 1)

    def free(self) -> int:
        """What is left."""
        return self.left * MIB

    def others(self) -> int:
        """What is held."""
        return self.held * MIB

    def taken_by(self, work: Callable[[], object]) -> int:
        """The last pass of it."""
        work()
        return int(self.used() * MIB)

    def reset(self) -> None:
        """Nothing is kept."""
