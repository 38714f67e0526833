"""The memory of a GPU, as what fits training into it sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

GIB = 2**30


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
