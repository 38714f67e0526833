"""The choice of a tuning method."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api.resource.tuning import Tuning
from multitask_trainer.errors import StageError
from multitask_trainer.tuning.full import Full
from multitask_trainer.tuning.lora import Lora
from multitask_trainer.tuning.method import TuningMethod


def tuning_method(tuning: Tuning, tasks: Sequence[str] = ()) -> TuningMethod:
    """The method that ``spec.tuning`` names; ``tasks`` are those of the training run, in its order.

    Raises `StageError` for a method that this version lacks.
    """
    del tasks  # Full and LoRA train the same weights for all
    if tuning.method == "Full":
        return Full()
    if tuning.method == "LoRA":
        return Lora(tuning)
    raise StageError(f"tuning.method: {tuning.method} is not available yet; use Full or LoRA")
