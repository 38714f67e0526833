"""The NVIDIA GPUs of this machine, without a library that would have to be loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def visible_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs that this process can use, as CUDA_VISIBLE_DEVICES names them."""
    count = gpu_count(environment, devices)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(str(index) for index in range(count))
    return tuple(name.strip() for name in visible.split(",")[:count])


def gpu_count(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """How many GPUs this process can use: those whose device files it has, and CUDA_VISIBLE_DEVICES leaves."""
    # Windows' Linux has one device file, whatever there is behind it.
    count = len(list(devices.glob("nvidia[0-9]*"))) or int((devices / "dxg").exists())
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None or count == 0:
        return count
    named = [name.strip() for name in visible.split(",")]
    # CUDA reads the list up to the first entry that names no device.
    end = next((index for index, name in enumerate(named) if name in ("", "-1")), len(named))
    return min(count, end)
