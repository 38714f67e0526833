"""The interface between training and a tuning method."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from multitask_trainer.base_model.loading import Precision

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


class TuningMethod(Protocol):
    """How a base model becomes trainable, and how the trained weights are saved and served."""

    freezes_base: bool
    """Whether the base's own weights stay as they are; then they need no fp32."""

    def check(self, load: Callable[[], PreTrainedModel], precision: Precision) -> list[str]:
        """What of a base model will not be trained though one might expect it, a sentence each.

        ``load`` gives the base anew each time; ``precision`` is that of the served weights. Raises `StageError` if the
        method does not fit the base model.
        """

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """The model with exactly the trained weights requiring gradients; new weights come from torch's seed."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained weights, in fp32, in the method's own format."""

    def load(self, model: nn.Module, folder: Path) -> None:
        """Put what `save` wrote into a model that `prepare` gave. Raises `StageError` if it does not fit.

        Weights of a task are found by its name; a task of the run that the folder lacks keeps the weights it has.
        """

    def write_servable(self, base: Path, weights: Path, task: str, folder: Path, precision: Precision) -> None:
        """Write what serves ``task`` into ``folder``: ``model/``, or ``adapter.safetensors`` and ``adapter.json``.

        ``base`` is the base artifact's ``model/``, ``weights`` what `save` wrote.
        """

    def servable_key(self, task: str) -> str:
        """Tasks of one training run with the same key share servable weights."""

    def select_tasks(self, model: nn.Module, tasks: Tensor | None) -> AbstractContextManager[None]:
        """A context in which rows are computed with the weights of their tasks: one for each micro-batch.

        ``tasks`` are indices into the tasks of the run, int64: (rows,), or (rows, tokens) where a sequence holds rows
        of several tasks, or (1,) for all rows of all forward passes. The context includes the backward pass, because
        gradient checkpointing computes the forward pass again in it. None says nothing of the rows; only a method
        without weights of single tasks takes it.
        """

    def decays(self, name: str) -> bool:
        """Whether weight decay applies to the parameter ``name`` of a model that `prepare` gave.

        True leaves the choice to the optimizer, which decays matrices only.
        """

    def task_step(self, model: nn.Module, optimizer: Optimizer, present: Tensor) -> None:
        """The optimizer's step, with the gradients that are there, clipped.

        ``present`` says of each task of the run whether the global batch of the step has rows of it: (tasks,) bool, on
        the CPU, the same in all processes. Weights and optimizer state of a task that has none stay as they are.
        """


class OptimizerDefaults:
    """What a method does not have to do that leaves weight decay and steps to the optimizer."""

    def decays(self, name: str) -> bool:
        """Weight decay is the optimizer's choice."""
        del name
        return True

    def task_step(self, model: nn.Module, optimizer: Optimizer, present: Tensor) -> None:
        """The optimizer's own step."""
        del model, present
        optimizer.step()


class SharedByAllTasks(OptimizerDefaults):
    """What a method does not have to do whose weights are the same for all tasks."""

    def select_tasks(self, model: nn.Module, tasks: Tensor | None) -> AbstractContextManager[None]:
        """All rows are computed alike."""
        del model, tasks
        return nullcontext()
