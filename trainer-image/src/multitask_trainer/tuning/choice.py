"""The choice of a tuning method."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api.resource.tuning import Tuning
from multitask_trainer.tuning.cgc import CgcLora
from multitask_trainer.tuning.full import Full
from multitask_trainer.tuning.lora import Lora
from multitask_trainer.tuning.method import TuningMethod


def tuning_method(tuning: Tuning, tasks: Sequence[str] = ()) -> TuningMethod:
    """The method that ``spec.tuning`` names; ``tasks`` are those of the training run, in its order."""
    if tuning.method == "Full":
        return Full()
    if tuning.method == "LoRA":
        return Lora(tuning)
    return CgcLora(tuning, tasks)
