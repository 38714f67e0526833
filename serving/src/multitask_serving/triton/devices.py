"""The device of a server, found without importing torch."""

from __future__ import annotations

import math
import re
from pathlib import Path

from multitask_api.errors import UserError
from multitask_api.machine.gpus import gpu_count

_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


class NoSuchDevice(UserError):
    """The machine does not have the device."""


def default_device() -> str:
    """``cuda`` if the machine has an NVIDIA GPU, else ``cpu``. Does not import torch."""
    return "cuda" if gpu_count() else "cpu"


def check_device(device: str) -> None:
    """Raise `NoSuchDevice` for a name that torch does not know, or a GPU on a machine without one."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise NoSuchDevice(f"--device {device}: there is no such device; use cpu, cuda or cuda:N")
    if device == "cpu":
        return
    count, number = gpu_count(), int(device.partition(":")[2] or 0)
    if count == 0:
        raise NoSuchDevice(f"--device {device}: this machine has no NVIDIA GPU that this process can use; use cpu")
    if number >= count:
        usable = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise NoSuchDevice(f"--device {device}: there is no such GPU; this process can use {usable}")


def container_cpus(limit: Path = _CPU_LIMIT) -> int | None:
    """The CPUs that the container may use, rounded up; None: no limit.

    torch starts a thread for each CPU of the node, and with a limit most of them would only wait.
    """
    try:
        quota, period = limit.read_text().split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None


def out_of_memory_kills(events: Path = _MEMORY_EVENTS) -> int:
    """How many processes of the container were killed because it had no memory left; 0 where that is not counted."""
    try:
        counts = dict(line.split() for line in events.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
