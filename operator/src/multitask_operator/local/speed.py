"""How fast this machine trains: as it was measured in an earlier run, else from the speed of a matrix product."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from multitask_api.estimates.flops import training_flops
from multitask_api.machine.gpus import gpu_count
from multitask_api.resource import MultiTaskModel
from multitask_operator.local.workdir import write_atomically
from multitask_operator.planner.stage_costs import Speed

_SIDE = 1024
"""Rows and columns of the matrices that are multiplied: 2 GFLOP, a twentieth of a second on one core."""


def expected_speed(model: MultiTaskModel, device: str, weights: int | None) -> Speed | None:
    """The speed of the last run with this base, method and device; else a rough one on the CPU; else None.

    ``device`` as for the stages: auto is a GPU where there is one. ``weights``: of the linear layers of the base, or
    all of them where its shape is not known; None if neither is.
    """
    measured = _read().get(_key(model, model.spec.tuning.method, device))
    if measured:
        return Speed(measured, "measured in an earlier run on this machine")
    on_cpu = device == "cpu" or (device == "auto" and not gpu_count())
    return _rough_speed(model, weights, _flops_per_second()) if on_cpu and weights else None


def remember_speeds(model: MultiTaskModel, device: str, speeds: Mapping[str, Speed]) -> None:
    """Keep the speed of each tuning method on the base of ``model`` for plans of other work folders.

    A cache that cannot be written is not needed.
    """
    path = _path()
    measured = {_key(model, method, device): speed.tokens_per_second for method, speed in speeds.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(_read() | measured, indent=1))
    except OSError:
        return


def _path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multitask" / "speeds.json"


def _read() -> dict[str, float]:
    try:
        content = json.loads(_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        {key: value for key, value in content.items() if isinstance(value, float)} if isinstance(content, dict) else {}
    )


def _key(model: MultiTaskModel, method: str, device: str) -> str:
    base = model.spec.base_model
    return " ".join(filter(None, (base.uri, base.revision, method, device)))


def _rough_speed(model: MultiTaskModel, weights: int, flops_per_second: float) -> Speed:
    operations = training_flops(weights, trains_all=model.spec.tuning.method == "Full")
    source = f"rough, from {weights / 1e6:,.1f} M weights and {flops_per_second / 1e9:,.0f} GFLOP/s"
    return Speed(flops_per_second / operations, source)


def _flops_per_second() -> float:
    """Of one thread's product of two fp32 matrices, which training reaches only with large models."""
    import numpy as np

    square = np.ones((_SIDE, _SIDE), dtype=np.float32)
    square @ square  # loads the library
    start = time.perf_counter()
    square @ square
    return 2 * _SIDE**3 / (time.perf_counter() - start)
