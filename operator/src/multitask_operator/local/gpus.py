"""The GPUs of this machine, as the driver's own tool describes them."""

from __future__ import annotations

import subprocess
from dataclasses import replace

from multitask_api.machine.gpu_models import GpuModel, known_gpu


def local_gpu() -> GpuModel | None:
    """The first GPU of this machine; None without the tool, or if it finds none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse(output)


def parse(output: str) -> GpuModel | None:
    """The first line of ``name, MiB``; None if it is something else."""
    name, _, mebibytes = output.partition("\n")[0].rpartition(",")
    if not name or not mebibytes.strip().isdigit():
        return None
    known = known_gpu(name)
    found = known or GpuModel(name, 0, None)
    return replace(found, name=name.strip(), memory=int(mebibytes) * 2**20)
