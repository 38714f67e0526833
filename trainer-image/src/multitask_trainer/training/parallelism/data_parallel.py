"""How the processes of a training hold its weights and add up their gradients; here each holds all weights.

`FullySharded` divides them. Where there is one process, there is nothing to add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import distributed, nn

from multitask_trainer.training.accelerator import make_cpu_group
from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.training.parallelism.averaging import average_gradients

if TYPE_CHECKING:
    from accelerate import Accelerator


class Parallelism(Protocol):
    """One process's part in a training. What says "all processes" is a collective operation of them."""

    @property
    def is_sharded(self) -> bool:
        """Whether the weights that are trained are divided over the processes: their tensors are DTensors."""

    @property
    def has_collective_passes(self) -> bool:
        """Whether a forward pass is one of all processes."""

    def prepare(self, loss: RowMeanLoss) -> Any:
        """The module to call for the loss, on this process's device; parameters may be others afterwards.

        Called once, by all processes, before the optimizer is made.
        """

    def micro_batches(self, own: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """What this process computes in a step whose share of the global batch is ``own``; all processes call it."""

    def all_fit(self, *, own: bool) -> bool:
        """After the last backward of a step: whether its micro-batches did fit into the memory of all processes.

        ``own``: whether they did in this one. Where a pass is one of all processes, one that failed cannot be made
        good, and this is ``own``.
        """

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """After `all_fit`, all processes: average the gradients that the backward has not."""

    def evaluation(self, idle_pass: Callable[[], None]) -> AbstractContextManager[None]:
        """A context that all processes enter, in which each makes as many forward passes as it needs, or none.

        ``idle_pass`` makes one whose result nobody reads.
        """


class DataParallel:
    """See `Parallelism`.

    Gradients are averaged after the backward of all micro-batches, not in it as DistributedDataParallel does: a process
    whose memory does not suffice would let the others wait there.
    """

    is_sharded = False
    has_collective_passes = False

    def __init__(self, accelerator: Accelerator, prepared: Any = None) -> None:
        """``prepared``: a loss that the accelerator has prepared already, in place of the one given to `prepare`."""
        self._accelerator = accelerator
        self._loss = prepared
        self._group: Any = None

    def prepare(self, loss: RowMeanLoss) -> Any:
        """On the device, in mixed precision; not in DistributedDataParallel."""
        if self._loss is None:
            self._loss = self._accelerator.prepare_model(loss, evaluation_mode=True)
        if self._accelerator.num_processes > 1 and self._accelerator.device.type != "cpu":
            self._group = make_cpu_group()
        return self._loss

    def micro_batches(self, own: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """Its share, however many micro-batches the others have."""
        return own

    def all_fit(self, *, own: bool) -> bool:
        """See `Parallelism.all_fit`."""
        if self._accelerator.num_processes == 1:
            return own
        failures = torch.tensor(float(not own))
        distributed.all_reduce(failures, group=self._group)
        return not failures

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """See `average_gradients`."""
        processes = self._accelerator.num_processes
        if processes > 1:
            average_gradients(parameters, processes, device=torch.device("cpu"), group=self._group)

    def evaluation(self, idle_pass: Callable[[], None]) -> AbstractContextManager[None]:
        """A pass needs no other process."""
        del idle_pass
        return nullcontext()
