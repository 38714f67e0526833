"""The interface between training and a tuning method, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from multitask_api.resource.training import Tuning
from multitask_trainer.base_model.loading import Precision
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class TuningMethod(Protocol):
    """How a base model becomes trainable, and how the trained weights are saved and served."""

    def check(self, load: Callable[[], PreTrainedModel], precision: Precision) -> list[str]:
        """What of a base model will not be trained though one might expect it, a sentence each.

        ``load`` gives the base anew each time; ``precision`` is that of the served weights. Raises `StageError` if the
        method does not fit the base model.
        """

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """The model with exactly the trained weights requiring gradients; new weights come from torch's seed."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained weights, in fp32, in the method's own format."""

    def load(self, model: nn.Module, folder: Path) -> None:
        """Put what `save` wrote into a model that `prepare` gave. Raises `StageError` if it does not fit."""

    def write_servable(self, base: Path, weights: Path, task: str, folder: Path, precision: Precision) -> None:
        """Write what serves ``task`` into ``folder``: ``model/``, or ``adapter.safetensors`` and ``adapter.json``.

        ``base`` is the base artifact's ``model/``, ``weights`` what `save` wrote.
        """

    def servable_key(self, task: str) -> str:
        """Tasks of one training run with the same key share servable weights."""


def tuning_method(tuning: Tuning) -> TuningMethod:
    """The method that ``spec.tuning`` names. Raises `StageError` for one that this version lacks."""
    from multitask_trainer.tuning.full import Full
    from multitask_trainer.tuning.lora import Lora

    if tuning.method == "Full":
        return Full()
    if tuning.method == "LoRA":
        return Lora(tuning)
    raise StageError(f"tuning.method: {tuning.method} is not available yet; use Full or LoRA")
