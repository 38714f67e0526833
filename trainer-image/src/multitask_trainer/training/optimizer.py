"""The settings of a training run, and its optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from multitask_api.stage_io.parameters import Optimisation


@dataclass(frozen=True)
class TrainingSettings:
    """How a run trains."""

    max_steps: int
    optimisation: Optimisation
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    """Of matrices; norms and biases have none."""


def make_adamw(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over ``parameters``; the loop sets the learning rate of every step."""
    every = list(parameters)
    groups = [
        {"params": [value for value in every if value.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [value for value in every if value.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.optimisation.learning_rate,
        betas=settings.betas,
        fused=True,
    )
