"""How many tokens a GPU takes at once: found before the first step, by forward and backward passes of the longest row.

What a pass takes grows linearly with its sequences, all of one width. Two small passes give what a sequence takes and
what is there whatever the batch is, a third one of the size that follows proves it. The memory of activations depends
on family, tuning method and kernels; measuring it needs no table of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from multitask_api.estimates.fitting import BUSY_TOKENS, MOST_TOKENS, USED
from multitask_api.machine.gpu_models import GIB
from multitask_trainer.errors import GpuInUse, StageError
from multitask_trainer.training.batching.batches import BatchSizes
from multitask_trainer.training.device_memory import DeviceMemory
from multitask_trainer.training.optimizer import OptimizerStep

if TYPE_CHECKING:
    from accelerate import Accelerator

_SEVERAL = 4
"""Sequences of the second pass, whose difference to one sequence is measured."""
_OTHERS = 0.1
"""Part of a GPU's memory: other processes that hold more of it are named as the cause if something does not fit."""


@dataclass(frozen=True)
class MicroBatchSize:
    """The most ``tokens`` of a micro-batch, padding included, and whether activations are computed twice."""

    tokens: int
    checkpointing: bool = False


@dataclass(frozen=True)
class PassMemory:
    """What forward and backward passes take, in bytes."""

    fixed: float
    sequence: float

    @classmethod
    def of(cls, one: int, several: int, sequences: int) -> PassMemory:
        """From the peaks of a pass with one sequence and of one with ``sequences``, two or more."""
        slope = max(1.0, (several - one) / (sequences - 1))
        return cls(max(0.0, one - slope), slope)

    def sequences(self, memory: float) -> int:
        """How many fit into ``memory`` bytes."""
        return max(0, int((memory - self.fixed) / self.sequence))


def choose(
    *,
    width: int,
    most_tokens: int,
    try_pass: Callable[[int], int],
    free: Callable[[], float],
    use_checkpointing: Callable[[], bool],
) -> MicroBatchSize | None:
    """The size of a micro-batch of sequences of ``width`` tokens; None if not even one sequence fits.

    ``try_pass`` takes a number of sequences, gives the bytes that forward and backward took, and raises
    `torch.OutOfMemoryError`; ``free`` gives the bytes that they may take. Without room for enough tokens,
    ``use_checkpointing`` is called, which gives False if it can change nothing.
    """
    most = max(1, min(most_tokens, MOST_TOKENS) // width)
    count = _fitting(most, try_pass, free)
    if count * width < min(BUSY_TOKENS, most * width) and use_checkpointing():
        count = _fitting(most, try_pass, free)
        return MicroBatchSize(count * width, checkpointing=True) if count else None
    return MicroBatchSize(count * width) if count else None


def _fitting(most: int, try_pass: Callable[[int], int], free: Callable[[], float]) -> int:
    """The sequences of a pass, by the estimate, halved until they fit; 0 if one does not."""
    try:
        try_pass(1)  # the first one also takes what libraries keep from then on
        one = try_pass(1)
    except torch.OutOfMemoryError:
        return 0
    count, several = most, min(most, _SEVERAL)
    if several > 1:
        try:
            count = min(most, PassMemory.of(one, try_pass(several), several).sequences(free()))
        except torch.OutOfMemoryError:
            count = several // 2
    while count > 1 and not _fits(count, try_pass, free()):
        count //= 2
    return max(1, count)


def _fits(count: int, try_pass: Callable[[int], int], memory: float) -> bool:
    try:
        return try_pass(count) <= memory
    except torch.OutOfMemoryError:
        return False


def fit(step: OptimizerStep, batches: BatchSizes, accelerator: Accelerator, memory: DeviceMemory) -> MicroBatchSize:
    """The size of a micro-batch that fits beside weights, gradients and optimizer state, the same in all processes.

    Switches gradient checkpointing on if it is needed, or all processes make a pass together, and the settings leave it
    open. Raises `StageError` if the model cannot be trained on this GPU, and `GpuInUse` if that is because of other
    processes.
    """

    def run_pass(sequences: int) -> int:
        return memory.taken_by(lambda: step.backward(batches.longest(sequences)))

    try_pass: Callable[[int], int] = run_pass
    if step.tries_together:
        step.use_checkpointing()
        try_pass = _at_the_most(run_pass)
    size = None
    with _state(step) as own_fits:
        # Where all processes make a pass together, the others would wait in it for one that has no state.
        has_state = _least([int(own_fits)], accelerator) == [1]
        if has_state:
            size = choose(
                width=batches.width,
                most_tokens=max(batches.width, batches.step_tokens),
                try_pass=try_pass,
                free=lambda: USED * memory.free(),
                use_checkpointing=lambda: not step.is_checkpointing and step.use_checkpointing(),
            )
    memory.reset()
    tokens, computes_once = _least([size.tokens, int(not size.checkpointing)] if size else [0, 1], accelerator)
    if not tokens:
        raise _does_not_fit(step, memory, batches.width if has_state else None)
    if not computes_once:
        step.use_checkpointing()
    return MicroBatchSize(tokens, step.is_checkpointing)


def _at_the_most(run_pass: Callable[[int], int]) -> Callable[[int], int]:
    """`run_pass` by passes of one sequence: several take no more than so many of them.

    Where all processes make a pass together, one that is too large for one of them ends the run.
    """

    def estimate(sequences: int) -> int:
        return sequences * run_pass(1)

    return estimate


@contextmanager
def _state(step: OptimizerStep) -> Iterator[bool]:
    """A context in which gradients and AdamW's two moments take their memory; whether they fit into it."""
    moments: list[torch.Tensor] = []

    def release() -> None:
        moments.clear()
        step.optimizer.zero_grad(set_to_none=True)

    try:
        for value in step.parameters.values():
            value.grad = torch.zeros_like(value)
            moments += [torch.empty_like(value, dtype=step.moment_dtype(value)) for _ in range(2)]
        fits = True
    except torch.OutOfMemoryError:
        release()
        fits = False
    try:
        yield fits
    finally:
        release()


def _least(own: list[int], accelerator: Accelerator) -> list[int]:
    """The least of each number over all processes, which call this together."""
    if accelerator.num_processes == 1:
        return own
    every: torch.Tensor = accelerator.gather(torch.tensor([own], device=accelerator.device))
    least: list[int] = every.amin(0).tolist()
    return least


def _does_not_fit(step: OptimizerStep, memory: DeviceMemory, width: int | None) -> StageError | GpuInUse:
    """What to say; ``width`` None if not even gradients and optimizer state fit."""
    others = memory.others()
    if others > _OTHERS * memory.total:
        return GpuInUse(
            f"the GPU has {memory.total / GIB:.0f} GiB and other processes hold {others / GIB:.1f} GiB of it; this "
            "training does not fit beside them. It is tried again; end them, or leave it another GPU"
        )
    trained, whole = step.weights
    state = (
        f"this base model with {whole:,} weights, {trained:,} of them trained, which take {step.state_bytes} bytes "
        "each beside it"
    )
    cure = "take a smaller base model, or a larger GPU"
    if 2 * trained > whole:
        cure = f"use tuning.method LoRA or CGCLoRA and no pretraining, which train few weights, or {cure}"
    if step.never_checkpoints and width is not None:
        cure = f"set training.gradientCheckpointing to Auto, which takes much less memory, or {cure}"
    if width is None:
        return StageError(f"a GPU of {memory.total / GIB:.0f} GiB is too small for {state}; {cure}")
    return StageError(
        f"a GPU of {memory.total / GIB:.0f} GiB has no room for a sequence of {width:,} tokens beside {state}; lower "
        f"training.maxLength if it is above 512, or {cure}"
    )
