"""What a training leaves to resume from: whole in one file, or in parts where the weights are divided.

Either is read whatever the number of processes was, and whether they divide the weights or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from multitask_trainer.errors import ArtifactError
from multitask_trainer.training.accelerator import make_cpu_group
from multitask_trainer.training.checkpoint import CheckpointStore, Progress, Weights
from multitask_trainer.training.parallelism.sharded_store import ShardedStore
from multitask_trainer.training.parallelism.tensors import copy_whole, load_whole_state
from multitask_trainer.training.parallelism.writer import BackgroundWriter

if TYPE_CHECKING:
    from accelerate import Accelerator

_WEIGHTS = "weights"


class Trained(Protocol):
    """What changes in a training."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """By name."""

    @property
    def optimizer(self) -> Optimizer:
        """Of the parameters."""

    @property
    def is_sharded(self) -> bool:
        """Whether the parameters are divided over the processes."""


class Checkpoints:
    """Those of one training, in ``store``. What is saved is copied first and written while training goes on.

    As a context it does not end before what was saved is written, also if an error ends it.
    """

    def __init__(self, trained: Trained, store: CheckpointStore, accelerator: Accelerator) -> None:
        self._trained = trained
        self._store = store
        self._sharded_store = ShardedStore(store.mirror or str(store.folder))
        self._accelerator = accelerator
        self._writer = BackgroundWriter()
        self._best: tuple[int, Weights] | None = None
        self._saved_step: int | None = None
        # Of its own, and of CPUs: the thread that writes must not wait in the operations of a step.
        self._group: Any = make_cpu_group() if trained.is_sharded else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.wait()
        else:
            self.drain()

    def drain(self) -> None:
        """Wait until nothing is being written any more, whether that fails or not."""
        with suppress(Exception):
            self._writer.wait()

    def restore(self) -> Progress | None:
        """Put the last checkpoint into weights and optimizer; None, and nothing has changed, without one.

        All processes call it. Raises `ArtifactError` unless they find the same: each reads its own folder or copy.
        """
        parted = self._sharded_store.steps()
        whole = self._store.load(best_elsewhere=parted)
        progress = self._sharded_store.newest(self._store.best_steps()) if parted else None
        if whole is not None and (progress is None or progress.step < whole[0].step):
            progress, weights, optimizer = whole
            self._load_weights(weights)
            load_whole_state(self._trained.optimizer, optimizer)
        elif progress is not None:
            self._sharded_store.load(progress.step, self._make_tensors(self._sharded_store.names(progress.step)))
        self._saved_step = progress.step if progress else None
        self._check_same_step(progress.step if progress else 0)
        return progress

    def keep_best(self, step: int) -> None:
        """Keep the weights of this step; `save` of the same step follows."""
        if self._group is None and self._accelerator.is_main_process:
            self._writer.wait()
            self._best = step, self._writer.take(self._weights())
            self._writer.submit(lambda best=self._best: self._store.save_best(*best))  # type: ignore[misc]

    def save(self, progress: Progress) -> None:
        """Leave a checkpoint; waits for the one before. All processes call it."""
        if self._group is not None:
            self._save_parts(progress, self._group)
        elif self._accelerator.is_main_process:
            if self._best is None or self._best[0] != progress.step:
                self._writer.wait()
            is_kept = self._best is not None and self._best[0] == progress.step
            weights = self._best[1] if self._best and is_kept else self._writer.take(self._weights())
            optimizer = self._writer.take(self._trained.optimizer.state_dict())
            self._best = None
            self._writer.submit(lambda: self._store.save(progress, weights, optimizer))
            self._writer.settle()

    def wait(self) -> None:
        """Wait until all is written; all processes call it."""
        self._writer.wait()
        self._accelerator.wait_for_everyone()

    def load_best(self, step: int) -> None:
        """Put what `keep_best` kept into the weights. Raises `ArtifactError` if it is gone."""
        if step in self._sharded_store.steps():
            self._sharded_store.load(step, {_WEIGHTS: self._weights()})
        else:
            self._load_weights(self._store.load_best(step))

    def _check_same_step(self, step: int) -> None:
        if self._accelerator.num_processes == 1:
            return
        steps = self._accelerator.gather(torch.tensor([step], device=self._accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ArtifactError(
                f"the processes have checkpoints of different steps ({steps}); they have to start again"
            )

    def _save_parts(self, progress: Progress, group: distributed.ProcessGroup) -> None:
        if progress.step == self._saved_step:
            return  # stopped right after it
        self._writer.wait()
        tensors = self._writer.take({_WEIGHTS: self._weights(), **self._optimizer_tensors()})
        is_main, self._saved_step = self._accelerator.is_main_process, progress.step
        self._writer.submit(lambda: self._sharded_store.save(progress, tensors, group, is_main=is_main))
        self._writer.settle()

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._trained.parameters.items()}

    def _load_weights(self, weights: Weights) -> None:
        for name, value in self._trained.parameters.items():
            copy_whole(value, weights[name])

    def _optimizer_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Name in the state → parameter → tensor."""
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, value in self._trained.parameters.items():
            for kind, of_parameter in self._trained.optimizer.state.get(value, {}).items():
                tensors.setdefault(kind, {})[name] = of_parameter
        return tensors

    def _make_tensors(self, names: Mapping[str, list[str]]) -> dict[str, dict[str, Tensor]]:
        """The tensors that take what a checkpoint has; the optimizer's state is made where it has none yet."""
        for kind, of_kind in names.items():
            for name in of_kind if kind != _WEIGHTS else ():
                value = self._trained.parameters[name]
                # AdamW's count of steps is a scalar on the parameter's device, all else of it is as the parameter is.
                made = torch.zeros((), device=value.device) if kind == "step" else torch.zeros_like(value)
                self._trained.optimizer.state[value].setdefault(kind, made.detach())
        return {_WEIGHTS: self._weights(), **self._optimizer_tensors()}
