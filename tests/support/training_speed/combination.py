"""What is measured of a combination, and how: the settings of both sides, and what is taken down of each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from multitask_api.estimates.fitting import CPU_TOKENS, MOST_TOKENS
from multitask_api.resource.tuning import Tuning
from support.training_speed.bases import SHAPES, Shape, SpeedRows

LEARNING_RATE = 2e-4
MIB = 2**20


@dataclass(frozen=True)
class Combination:
    """What is measured, and how."""

    base: str
    method: str
    device: str
    threads: int = 1
    lengths: str = "short"
    batch_rows: int = 64
    trainer_rows: int = 16
    """Rows of a batch of HF Trainer (``per_device_train_batch_size``); gradients are accumulated over the batches of a
    step."""
    steps: int = 8
    warmup: int = 2
    """Steps before those that count."""
    seconds: float = 60.0
    """No round begins later."""
    base_dtype: str = "fp32"
    """Of a frozen base, on both sides; with Full the weights are fp32, and on a GPU both compute in bf16."""
    checkpointing: bool = False
    micro_batch_tokens: int | None = None
    rank: int = 16

    @property
    def shape(self) -> Shape:
        return SHAPES[self.base]

    @property
    def tuning(self) -> Tuning:
        # Three tasks, a common expert and one each: the rank must be a multiple of four.
        return Tuning.model_validate({"method": self.method, "rank": self.rank, "alpha": 2 * self.rank})

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Of the computation."""
        return "fp32" if self.device == "cpu" else "bf16"

    @property
    def weights_dtype(self) -> torch.dtype:
        """Of the base, on both sides."""
        frozen = self.method != "Full" and self.base_dtype == "bf16"
        return torch.bfloat16 if frozen else torch.float32

    @property
    def least_bytes(self) -> int:
        """Of one side: the weights of the base; with Full also gradients and AdamW's two moments, all fp32."""
        return self.shape.parameters * (16 if self.method == "Full" else self.weights_dtype.itemsize)

    def rows(self) -> SpeedRows:
        return SpeedRows.of(self.lengths, vocabulary=self.shape.vocabulary, batch_rows=self.batch_rows)


@dataclass(frozen=True)
class MemorySettings:
    """What of our side depends on the memory there is."""

    base_dtype: torch.dtype
    checkpointing: bool
    micro_batch_tokens: int
    pack: bool


def memory_settings(combination: Combination) -> MemorySettings:
    """As the product begins with, where the combination does not say; on a GPU `fit` then finds what fits."""
    on_gpu = combination.device != "cpu"
    return MemorySettings(
        base_dtype=combination.weights_dtype,
        checkpointing=combination.checkpointing,
        micro_batch_tokens=combination.micro_batch_tokens or (MOST_TOKENS if on_gpu else CPU_TOKENS),
        pack=on_gpu,
    )


@dataclass
class Measured:
    """Of one side."""

    seconds: list[float] = field(default_factory=list)
    """Of every step, the warm-up too."""
    cpu_seconds: list[float] = field(default_factory=list)
    """Of this process in every step: other work on the machine changes it little."""
    losses: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    """Allocated on the GPU by this side alone; None on a CPU, where a process of its own measures it."""
    out_of_memory: str | None = None
    trained: int = 0
    micro_batch_tokens: int | None = None
    """The most of a micro-batch; None for HF Trainer, which counts rows."""
    checkpointing: bool = False
    micro_batches: int | None = None
    """Of the last step."""
    attention: str | None = None
    """How packed rows were kept apart, and why so; None where rows are padded."""


def synchronise(device: str) -> None:
    """Wait for what was started on a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def allocated(device: str) -> float:
    """MiB allocated on the GPU; 0 on a CPU."""
    return 0.0 if device == "cpu" else torch.cuda.memory_allocated() / MIB


def total_memory(device: str) -> int:
    """Bytes of the GPU, or of memory that is free on this machine."""
    if device != "cpu":
        total: int = torch.cuda.mem_get_info()[1]
        return total
    import psutil

    available: int = psutil.virtual_memory().available
    return available


class PeakMemory:
    """The most that one side has allocated on the GPU; ``others`` MiB belong to the other side."""

    def __init__(self, device: str, measured: Measured) -> None:
        self._device, self._measured = device, measured
        self._others = 0.0

    def begin(self, others: float) -> None:
        self._others = others
        if self._device != "cpu":
            torch.cuda.reset_peak_memory_stats()

    def end(self) -> None:
        if self._device != "cpu":
            peak = torch.cuda.max_memory_allocated() / MIB - self._others
            self._measured.peak_mib = max(peak, self._measured.peak_mib or 0.0)


def trained_weights(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


class Deadline:
    """A time from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() > self._end


def out_of_memory(error: Exception, step: int) -> str:
    """Where, and how much was wanted; torch's message goes on with what the GPU holds, ours says what to do."""
    said = str(error).partition(" GPU ")[0] if isinstance(error, torch.OutOfMemoryError) else str(error)
    return f"step {step}: {said}"
