"""Checkpoints of a run: one file, replaced in one step, so that a run killed at any point finds the last whole one.

The best weights so far stand in a file of their own that the checkpoint names; both are kept until the next checkpoint
names another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multitask_api.results import CurvePoint
from multitask_api.types import Model

Weights = Mapping[str, Tensor]


class Progress(Model):
    """Everything a run remembers besides weights and optimizer. Batches need no state: they follow from the step."""

    step: int = 0
    tail_begin: int | None = None
    ended_by_limit: bool = False
    best_step: int | None = None
    best_value: float = 0.0
    best_loss: float = 0.0
    stale: int = 0
    """Validations since the best one."""
    curve: tuple[CurvePoint, ...] = ()
    loss_sum: float = 0.0
    """Training loss summed over the steps since the last validation."""
    loss_steps: int = 0
    first_loss: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    """Spent in steps, over all restarts; validation not included."""


@dataclass(frozen=True)
class CheckpointStore:
    """``checkpoint.pt`` and ``best-<step>.pt`` in one folder."""

    folder: Path

    def save(self, progress: Progress, weights: Weights, optimizer: Mapping[str, Any]) -> None:
        """Replace the checkpoint, then remove best weights that it does not name."""
        content = {"progress": progress.model_dump_json(), "weights": dict(weights), "optimizer": dict(optimizer)}
        _replace(self.folder / "checkpoint.pt", content)
        for path in self.folder.glob("best-*.pt"):
            if path != self._best(progress.best_step):
                path.unlink()

    def load(self) -> tuple[Progress, Weights, dict[str, Any]] | None:
        """The last checkpoint; None if there is none."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return None
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Progress.model_validate_json(content["progress"]), content["weights"], content["optimizer"]

    def save_best(self, step: int, weights: Weights) -> None:
        """Keep the weights of ``step``; they count once a checkpoint names that step."""
        _replace(self._best(step), dict(weights))

    def load_best(self, step: int) -> Weights:
        """What `save_best` kept."""
        weights: Weights = torch.load(self._best(step), map_location="cpu", weights_only=True)
        return weights

    def _best(self, step: int | None) -> Path:
        return self.folder / f"best-{step}.pt"


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
