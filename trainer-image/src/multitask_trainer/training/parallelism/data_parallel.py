"""How the processes of a training hold its weights and add up their gradients; here each holds all weights.

`FullySharded` divides them. Where there is one process, there is nothing to add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.loss import RowMeanLoss

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

    def trial_loss(self, batch: MicroBatch) -> Tensor:
        """The loss of a pass whose gradients are dropped."""

    def micro_batches(self, own: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """What this process computes in a step whose share of the global batch is ``own``; all processes call it."""

    def gradient_sync(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """A context for forward and backward of one micro-batch of a step."""

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """After the last backward of a step, all processes: average the gradients that the backward has not."""

    def evaluation(self, idle_pass: Callable[[], None]) -> AbstractContextManager[None]:
        """A context that all processes enter, in which each makes as many forward passes as it needs, or none.

        ``idle_pass`` makes one whose result nobody reads.
        """


class DataParallel:
    """See `Parallelism`; DistributedDataParallel through accelerate."""

    is_sharded = False
    has_collective_passes = False

    def __init__(self, accelerator: Accelerator, prepared: Any = None) -> None:
        """``prepared``: a loss that the accelerator has prepared already, in place of the one given to `prepare`."""
        self._accelerator = accelerator
        self._loss = prepared

    def prepare(self, loss: RowMeanLoss) -> Any:
        """As accelerate does."""
        if self._loss is None:
            self._loss = self._accelerator.prepare(loss)
        return self._loss

    def trial_loss(self, batch: MicroBatch) -> Tensor:
        """In this process alone: DistributedDataParallel's own forward pass would wait for that of the others."""
        with self._accelerator.autocast():
            loss: Tensor = self._accelerator.unwrap_model(self._loss)(batch)
        return loss

    def micro_batches(self, own: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """Its share, however many micro-batches the others have."""
        return own

    def gradient_sync(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients are summed over the processes with the last micro-batch of a step only."""
        if is_last or self._accelerator.num_processes == 1:
            return nullcontext()
        no_sync: AbstractContextManager[Any] = self._accelerator.no_sync(self._loss)
        return no_sync

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The backward of the last micro-batch has done it."""

    def evaluation(self, idle_pass: Callable[[], None]) -> AbstractContextManager[None]:
        """A pass needs no other process."""
        del idle_pass
        return nullcontext()
