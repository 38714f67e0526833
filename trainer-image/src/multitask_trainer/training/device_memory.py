"""The memory of a GPU, as what fits training into it sees it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import distributed

from multitask_api.machine.gpu_models import GIB
from multitask_trainer.errors import MicroBatchTooLarge, StageError

T = TypeVar("T")


def halve_until_it_fits(work: Callable[[], T], *, tokens: int, least: int, use: Callable[[int], None]) -> T:
    """What ``work`` returns; after an out-of-memory again, with half as many tokens of a micro-batch.

    ``work`` raises `MicroBatchTooLarge` and has changed nothing then, in all processes alike; with ``least`` tokens or
    fewer it is raised here. ``use`` sets the tokens, which are ``tokens`` before.
    """
    while True:
        try:
            return work()
        except MicroBatchTooLarge:
            if tokens <= least:
                raise
        # Here the error is gone, and what it held in its frames.
        gc.collect()
        torch.cuda.empty_cache()
        tokens = max(least, tokens // 2)
        use(tokens)


class DeviceMemory(Protocol):
    """All in bytes."""

    @property
    def total(self) -> int:
        """Of the device."""

    def free(self) -> int:
        """What this process can still allocate."""

    def others(self) -> int:
        """What other processes hold, with the driver's own."""

    def taken_by(self, work: Callable[[], object]) -> int:
        """The most that ``work`` allocates beyond what is there. Raises `torch.OutOfMemoryError`."""

    def reset(self) -> None:
        """Give back what is not in use, and count the peak anew."""


class CudaMemory:
    """See `DeviceMemory`; of ``device`` as torch's allocator has it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def total(self) -> int:
        return int(torch.cuda.mem_get_info(self._device)[1])

    def free(self) -> int:
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def others(self) -> int:
        return self.total - self.free() - torch.cuda.memory_reserved(self._device)

    def taken_by(self, work: Callable[[], object]) -> int:
        self.reset()
        before = torch.cuda.memory_allocated(self._device)
        work()
        return torch.cuda.max_memory_allocated(self._device) - before

    def reset(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)


class SharedMemory:
    """See `DeviceMemory`; of all processes, which make the same passes together: the least room, the most taken.

    A pass that does not fit in one process cannot be given up in all: it raises `StageError`.
    """

    def __init__(self, own: DeviceMemory, device: torch.device) -> None:
        self._own = own
        self._device = device

    @property
    def total(self) -> int:
        return self._own.total

    def free(self) -> int:
        return self._reduced(self._own.free(), distributed.ReduceOp.MIN)

    def others(self) -> int:
        return self._own.others()

    def taken_by(self, work: Callable[[], object]) -> int:
        try:
            taken = self._own.taken_by(work)
        except torch.OutOfMemoryError as error:
            raise StageError(
                f"a GPU of {self.total / GIB:.0f} GiB has no room for a sequence of training.maxLength tokens beside "
                f"its part of the weights ({error}); use more GPUs, lower training.maxLength, or take a smaller base "
                "model"
            ) from None
        return self._reduced(taken, distributed.ReduceOp.MAX)

    def reset(self) -> None:
        self._own.reset()

    def _reduced(self, value: int, operation: distributed.ReduceOp.RedOpType) -> int:
        tensor = torch.tensor(value, device=self._device)
        distributed.all_reduce(tensor, operation)
        return int(tensor)
