"""Whether the GPUs of a training divide its weights (``training.sharding``): for training and for plans. Pure."""

from __future__ import annotations

from multitask_api.resource.training import Sharding

_MOST = 0.75
"""Part of a GPU's free memory that states may take with all weights in each process; the rest is for activations."""


def divides_weights(sharding: Sharding | None, processes: int, state: int, free: float) -> bool:
    """For ``processes`` of a GPU each: ``state`` bytes of weights, gradients and optimizer state, ``free`` bytes of the
    GPU that has the fewest.
    """
    if sharding in ("Always", "Never"):
        return processes > 1 and sharding == "Always"
    return processes > 1 and state > _MOST * free
