"""Writes while training goes on: what is written is copied to the CPU first, a thread does the rest.

Without room for the copy training waits instead.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.distributed.tensor import DTensor

_CGROUP = Path("/sys/fs/cgroup")
_MOST = 0.25
"""Part of the free memory of the machine or pod that a process's copy may take: others of it copy at the same time."""


class BackgroundWriter:
    """Does one thing after the other. A thing that fails raises its error in the next `wait`."""

    def __init__(self) -> None:
        self._is_urgent = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: list[Future[None]] = []

    def take(self, value: Any) -> Any:
        """``value`` for what is submitted next: a copy, or itself where there is no room. Then call `settle`."""
        if tensor_bytes(value) <= _MOST * free_memory():
            return copied(value)
        self._is_urgent = True
        return value

    def submit(self, write: Callable[[], None]) -> None:
        """Do it once what was submitted before is done."""
        self._pending.append(self._thread.submit(write))

    def settle(self) -> None:
        """After `submit`: wait for it if it writes what was not copied."""
        if self._is_urgent:
            self._is_urgent = False
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is pending."""
        pending, self._pending = self._pending, []
        for each in pending:
            each.result()


def copied(value: Any) -> Any:
    """``value`` with copies on the CPU of all tensors in its dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value


def tensor_bytes(value: Any) -> int:
    """What all tensors in the dicts and lists of ``value`` take in this process."""
    if isinstance(value, DTensor):
        return value.to_local().nbytes
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(tensor_bytes, parts))


def free_memory() -> int:
    """Bytes of the CPU's memory that can still be had, within the limit of the control group."""
    free: int = psutil.virtual_memory().available
    try:
        limit = (_CGROUP / "memory.max").read_text("ascii").strip()
        used = int((_CGROUP / "memory.current").read_text("ascii"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):
        return free
    # Files that were read count as used, and are dropped when memory is short.
    return free if limit == "max" else min(free, int(limit) - used + int(stat.get("inactive_file", 0)))
