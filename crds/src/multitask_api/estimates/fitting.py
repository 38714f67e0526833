"""The micro-batch that fits into a device's memory, and whether activations are computed twice, by the estimate.

The same rules as those of training, which finds both by trial passes on the GPU itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from multitask_api.estimates.memory import MemoryModel, MicroBatchShape, TrainingMemory
from multitask_api.resource.training import GradientCheckpointing

MOST_TOKENS = 32768
"""More of them in one pass make no GPU faster."""
BUSY_TOKENS = 8192
"""As many in one pass keep a GPU busy. With fewer, activations are computed twice, a third more work. Not measured."""
USED = 0.92
"""Of the free memory; the rest is for fragments and for what CUDA's libraries take."""
CLOSE = 0.1
"""Of the memory: training whose least need is no more than this below `USED` may not fit after all."""

PACK_WIDTH = 512
"""Tokens of a packed sequence, unless a row is longer. The cost of attention grows with its square."""
CPU_TOKENS = 3072
"""Padded tokens of a micro-batch on a CPU: more leaves its caches."""
CPU_TEXT_TOKENS = 1024
"""Of one of pre-training: every position has logits over the whole vocabulary."""


@dataclass(frozen=True)
class Fitted:
    """The largest micro-batch that fits: its ``tokens``, padding included, and the memory of training with it."""

    tokens: int
    checkpointing: bool
    memory: TrainingMemory
    fits: bool = True
    """False: not even one sequence does; it is what that would take."""
    gpus: int = 1
    """Those that divide the weights, which ``memory`` is of one of."""
    runs: int = 1
    """Those that train together, which tokens and memory are of."""
    close: bool = False
    """It fits, and one sequence with activations computed twice, if they may be, is within `CLOSE` of what fits."""


def fit(
    model: MemoryModel,
    available: float,
    *,
    setting: GradientCheckpointing,
    most_tokens: int,
    batch_of: Callable[[int], MicroBatchShape],
) -> Fitted:
    """What fits into ``available`` bytes, the device's memory, of at most ``most_tokens`` tokens of a step.

    ``batch_of`` gives the micro-batch of so many sequences.
    """
    if model.gpus > 1 and setting == "Auto":
        setting = "Always"  # a pass that is too large for one of the processes ends all: none is tried
    width = batch_of(1).sequence
    most = max(1, min(most_tokens, MOST_TOKENS) // width)
    plain = None if setting == "Always" else _largest(model, available, most, batch_of)
    is_enough = plain is not None and plain.fits and plain.tokens >= min(BUSY_TOKENS, most * width)
    if plain is not None and (is_enough or setting == "Never"):
        found = plain
    else:
        found = _largest(replace(model, checkpointing=True), available, most, batch_of)
    least = replace(model, checkpointing=setting != "Never").of(batch_of(1)).total
    return replace(found, close=found.fits and least > (USED - CLOSE) * available)


def _largest(model: MemoryModel, available: float, most: int, batch_of: Callable[[int], MicroBatchShape]) -> Fitted:
    """As many sequences as fit, ``most`` at the most; one that does not fit if none does."""
    room = USED * available

    def total(sequences: int) -> int:
        return model.of(batch_of(sequences)).total

    one = model.of(batch_of(1))
    low, high = 0, most
    if model.gpus > 1:  # as training has it, which tries one sequence then
        low = high = max(0, min(most, int((room - one.state) // (one.total - one.state))))
    while low < high:
        middle = -(-(low + high) // 2)
        low, high = (middle, high) if total(middle) <= room else (low, middle - 1)
    batch = batch_of(max(1, low))
    return Fitted(batch.tokens, model.checkpointing, model.of(batch), fits=low > 0, gpus=model.gpus, runs=model.runs)
