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

from multitask_trainer.errors import StageError
from multitask_trainer.training.batching.batches import Batches
from multitask_trainer.training.optimizer import OptimizerStep

if TYPE_CHECKING:
    from accelerate import Accelerator

MOST_TOKENS = 32768
"""More of them in one pass make no GPU faster."""
_BUSY_TOKENS = 8192
"""As many in one pass keep a GPU busy. With fewer, it is worth to compute activations twice, a third more work."""
_USED = 0.92
"""Of the free memory; the rest is for fragments and for what CUDA's libraries take."""
_SEVERAL = 4
_GIB = 2**30


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
    ``use_checkpointing`` is called, which gives False if the model has none.
    """
    most = max(1, min(most_tokens, MOST_TOKENS) // width)
    count = _fitting(most, try_pass, free)
    if count * width < min(_BUSY_TOKENS, most * width) and use_checkpointing():
        count = _fitting(most, try_pass, free)
        return MicroBatchSize(count * width, checkpointing=True) if count else None
    return MicroBatchSize(count * width) if count else None


def _fitting(most: int, try_pass: Callable[[int], int], free: Callable[[], float]) -> int:
    """The sequences of a pass, by the estimate, halved until they fit; 0 if one does not."""
    several = min(most, _SEVERAL)
    try:
        one = try_pass(1)
        count = most
        if several > 1:
            count = max(1, min(most, PassMemory.of(one, try_pass(several), several).sequences(free())))
    except torch.OutOfMemoryError:
        count = several // 2
    while count and not _fits(count, try_pass):
        count //= 2
    return count


def _fits(count: int, try_pass: Callable[[int], int]) -> bool:
    try:
        try_pass(count)
    except torch.OutOfMemoryError:
        return False
    return True


def fit_to_gpu(step: OptimizerStep, batches: Batches, accelerator: Accelerator) -> MicroBatchSize:
    """The size of a micro-batch that fits beside weights, gradients and optimizer state, the same in all processes.

    Switches gradient checkpointing on if it is needed. Raises `StageError` if the model cannot be trained on this GPU.
    """
    device = accelerator.device

    def try_pass(sequences: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step.backward(batches.longest(sequences), is_last=False)
        return torch.cuda.max_memory_allocated(device) - before

    def free() -> float:
        torch.cuda.empty_cache()
        return _USED * torch.cuda.mem_get_info(device)[0]

    size = None
    with _optimizer_memory(step):
        size = choose(
            width=batches.width,
            most_tokens=max(batches.width, batches.step_tokens),
            try_pass=try_pass,
            free=free,
            use_checkpointing=step.use_checkpointing,
        )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return _agree(size, step, batches.width, accelerator)


@contextmanager
def _optimizer_memory(step: OptimizerStep) -> Iterator[None]:
    """A context in which the memory of gradients and of AdamW's two moments is taken.

    Raises `StageError` if it is not there.
    """
    try:
        for value in step.parameters.values():
            value.grad = torch.zeros_like(value)
        moments = [torch.empty_like(value) for value in step.parameters.values() for _ in range(2)]
    except torch.OutOfMemoryError:
        step.optimizer.zero_grad(set_to_none=True)
        raise StageError(_too_large(step)) from None
    yield
    moments.clear()
    step.optimizer.zero_grad(set_to_none=True)


def _agree(size: MicroBatchSize | None, step: OptimizerStep, width: int, accelerator: Accelerator) -> MicroBatchSize:
    """The smallest of all processes; checkpointing if one of them needs it."""
    tokens, checkpointing = (size.tokens, size.checkpointing) if size else (0, False)
    if accelerator.num_processes > 1:
        mine = torch.tensor([[tokens, int(checkpointing)]], device=accelerator.device)
        every = accelerator.gather(mine)
        tokens, checkpointing = int(every[:, 0].min()), bool(every[:, 1].max())
    if not tokens:
        raise StageError(f"{_too_large(step)} A row of {width} tokens does not fit: lower training.maxLength.")
    if checkpointing:
        step.use_checkpointing()
    return MicroBatchSize(tokens, checkpointing)


def _too_large(step: OptimizerStep) -> str:
    trained = sum(value.numel() for value in step.parameters.values())
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return (
        f"training.gpusPerNode: a GPU of {total / _GIB:.0f} GiB is too small to train {trained:,} weights of this base "
        "model, which take 12 bytes each beside the model. Use tuning.method LoRA or CGCLoRA, a smaller base model, or "
        "a larger GPU."
    )
