"""The Accelerator of a training run: device, processes, mixed precision; and randomness and signals of a step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed

from multitask_serving.engine.model.float32 import use_tf32
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from accelerate import Accelerator


PROCESS_GROUP_TIMEOUT = timedelta(hours=1)
"""Between processes: all wait for the slowest, which may load data that the others have already."""


def make_accelerator(*, device: str, threads: int, precision: Literal["fp32", "bf16"]) -> Accelerator:
    """One process's share of the machine: under torchrun one of several, else the only one.

    ``device`` is ``cpu`` or a GPU (`StageContext.device` resolves ``auto``). Master weights are fp32. On a GPU ``bf16``
    computes in bf16 (autocast) and ``fp32`` in TF32. Where `computes_in_bf16` says no, everything is computed in fp32,
    and the precision only decides the dtype in which the result is served.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    on_gpu = device != "cpu"
    use_tf32(enabled=on_gpu)
    return Accelerator(
        cpu=not on_gpu,
        mixed_precision="bf16" if precision == "bf16" and computes_in_bf16(device) else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)],
    )


def computes_in_bf16(device: str) -> bool:
    """Whether bf16 is faster there than fp32: not on a CPU, nor on a GPU that emulates it (T4)."""
    if device == "cpu":
        return False
    return not torch.cuda.is_available() or bool(torch.cuda.is_bf16_supported(including_emulation=False))


def make_cpu_group() -> Any:
    """A group of all processes that tell each other something through the CPU (gloo); all of them call this.

    What it does waits for no kernel of a GPU, and for no operation of the default group.
    """
    return distributed.new_group(backend="gloo", timeout=PROCESS_GROUP_TIMEOUT)


def check_batch_rows(batch_rows: int, accelerator: Accelerator) -> None:
    """Raise `StageError` unless every process gets a row of each step."""
    if batch_rows < accelerator.num_processes:
        raise StageError(
            f"training.batchRows is {batch_rows} and there are {accelerator.num_processes} processes: raise it, or use"
            " fewer GPUs"
        )


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Dropout of a step follows from (seed, step, rank) alone, so that a resumed run repeats it."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


@contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM does not end the process; the function that is given tells whether it was received."""
    received = False

    def note(_signal: int, _frame: object) -> None:
        nonlocal received
        received = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGTERM, before)
