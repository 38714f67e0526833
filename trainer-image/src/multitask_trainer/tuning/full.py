"""Full: every weight of the model is trained, and a whole model is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from multitask_trainer.base_model.loading import Precision, load_base
from multitask_trainer.base_model.saving import save_served_model
from multitask_trainer.errors import StageError
from multitask_trainer.tuning.method import SharedByAllTasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"


class Full(SharedByAllTasks):
    """See `TuningMethod`."""

    freezes_base = False

    def check(self, load: Callable[[], PreTrainedModel], precision: Precision) -> list[str]:
        """Every weight can be trained."""
        del load, precision
        return []

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """Every parameter requires gradients."""
        model.requires_grad_(requires_grad=True)
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """``model.safetensors``: every parameter once (tied ones under their first name), fp32."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().float().cpu().contiguous() for name, value in model.named_parameters()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    def load(self, model: nn.Module, folder: Path) -> None:
        """Replace every parameter."""
        weights = load_file(folder / WEIGHTS)
        parameters = dict(model.named_parameters())
        wrong = sorted(set(weights) ^ set(parameters)) or [
            name for name, value in parameters.items() if value.shape != weights[name].shape
        ]
        if wrong:
            raise StageError(f"{folder}: these weights are not of this base model ({wrong[0]} differs); redo the stage")
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(weights[name])

    def write_servable(self, base: Path, weights: Path, task: str, folder: Path, precision: Precision) -> None:
        """``model/``: a transformers folder in the final dtype, with the base's tokenizer."""
        del task  # all tasks of a run share the model
        model = load_base(base)
        self.load(model, weights)
        save_served_model(model, base, folder / "model", precision)

    def servable_key(self, task: str) -> str:
        """One model for all tasks."""
        del task
        return "model"
