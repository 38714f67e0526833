"""Cores and memory that this process may use, within the limits of its control group."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from multitask_api.machine.gpus import visible_gpus
from multitask_operator.planner import Capacity

_CGROUP = Path("/sys/fs/cgroup")


def capacity(processes: int | None = None, *, device: str = "auto") -> Capacity:
    """Cores, free memory in bytes, and GPUs unless ``device`` is ``cpu``.

    ``processes``: how many stages may run at once.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    if quota is not None:
        cores = min(cores, max(1, int(quota)))
    return Capacity(
        cores=cores,
        memory=_free_memory(),
        processes=max(1, cores if processes is None else processes),
        gpus=() if device == "cpu" else visible_gpus(),
    )


def _cpu_quota() -> float | None:
    """The control group's CPU quota in cores; None without one."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def _free_memory() -> int:
    free: int = psutil.virtual_memory().available
    try:
        limit = (_CGROUP / "memory.max").read_text("ascii").strip()
        used = int((_CGROUP / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)
