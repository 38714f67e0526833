"""Writes the model repository that Triton loads: one model, ``multitask``, over one bundle.

The model is *decoupled* (a request may have many responses), so that one copy of the weights answers both kinds of
task. There is no ``dynamic_batching``: batches form in `scheduler`, which also bounds the queue and its waiting times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from multitask_serving.triton import wire

_MODEL_PY = '''"""Triton loads this file; the model itself is installed beside it."""

import os
import sys

# Triton's interpreter ignores the environment.
sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]

from multitask_serving.triton.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How Triton runs the model.

    At most ``max_queue_size`` requests wait; beyond that they get an error. So does one that waits for longer than its
    time-out, or ``queue_timeout_s`` seconds without one. At most ``max_batch_size`` labels form a batch. ``device`` is
    torch's name (``cpu``, ``cuda``); ``threads`` is torch's number of threads, None for its default.
    """

    max_batch_size: int = 32
    max_queue_size: int = 512
    queue_timeout_s: float = 30.0
    device: str = "cpu"
    threads: int | None = None


def write_repository(bundle: Path | str, folder: Path, settings: ModelSettings | None = None) -> Path:
    """Write ``folder/multitask`` and return ``folder``. A relative ``bundle`` is relative to ``folder/multitask``."""
    model = folder / wire.MODEL
    version = model / "1"
    version.mkdir(parents=True, exist_ok=True)
    config = model_config(str(bundle), settings or ModelSettings())
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))
    (version / "model.py").write_text(_MODEL_PY)
    return folder


def model_config(bundle: str, settings: ModelSettings) -> ModelConfig:
    """The Triton configuration of the one model."""
    config = ModelConfig(name=wire.MODEL, backend="python", max_batch_size=settings.max_batch_size)
    for name in (wire.TASK, wire.FIELDS, wire.OPTIONS):
        config.input.add(name=name, data_type="TYPE_STRING", dims=[1], optional=name == wire.OPTIONS)
    for name, data_type, size in (
        (wire.TEXT, "TYPE_STRING", 1),
        (wire.LABELS, "TYPE_STRING", -1),
        (wire.SCORES, "TYPE_FP32", -1),
        (wire.FINISH_REASON, "TYPE_STRING", 1),
        (wire.REVISION, "TYPE_STRING", 1),
    ):
        config.output.add(name=name, data_type=data_type, dims=[size])
    config.model_transaction_policy.decoupled = True
    config.instance_group.add(count=1, kind=ModelInstanceGroup.Kind.KIND_MODEL)  # torch chooses the device, not Triton
    parameters = {
        "bundle": bundle,
        "device": settings.device,
        "max_waiting": str(settings.max_queue_size),
        "queue_timeout_s": f"{settings.queue_timeout_s:g}",
    }
    if settings.threads is not None:
        parameters["threads"] = str(settings.threads)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config
