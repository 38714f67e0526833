"""Which task each row, or each token, of the current forward passes belongs to; one for a model, read by its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SelectedTasks:
    """Task ids with the weights that they give the ranks of every layer."""

    tasks: Tensor
    """(rows,) or (rows, tokens), int64."""
    weights: Mapping[str, Sequence[Tensor]]
    """Adapter → by layer: (rows, ranks), α / r included; with ids of tokens (T, ranks), a line for each task."""
    one_hot: Tensor | None
    """(rows · tokens, T), with ids of tokens."""

    def apply(self, adapter: str, layer: int, down: Tensor) -> Tensor:
        """``down`` (…, ranks), what A gives, times each row's or token's weights. Raises `ValueError`.

        The rows lie one after the other in ``down``, whatever its leading sizes are: (rows, tokens), (rows · tokens),
        (1, rows · tokens). So a number of rows is never mistaken for one of tokens.
        """
        weights = self.weights[adapter][layer].to(down.dtype)
        if self.one_hot is not None:
            weights = self.one_hot.to(down.dtype) @ weights
        count = down.numel() // down.shape[-1]
        if count % len(weights) or (self.one_hot is not None and count != len(weights)):
            raise ValueError(
                f"the task ids are {tuple(self.tasks.shape)} and a layer is given {tuple(down.shape[:-1])} inputs; "
                "select one task for each row, or for each token, of the batch"
            )
        by_row = down.reshape(len(weights), -1, down.shape[-1])
        return (by_row * weights[:, None]).reshape(down.shape)


class TaskSelection:
    """Holds the `SelectedTasks` that are in force. Each adapted model has one, shared by its layers."""

    def __init__(self) -> None:
        self.current: SelectedTasks | None = None

    @contextmanager
    def use(self, selected: SelectedTasks) -> Iterator[None]:
        """A context in which ``selected`` is in force; contexts can be nested."""
        before, self.current = self.current, selected
        try:
            yield
        finally:
            self.current = before

    def required(self) -> SelectedTasks:
        """What is in force. Raises `RuntimeError` outside any context."""
        if self.current is None:
            raise RuntimeError("no task is selected; use the model inside `with model.select_tasks(task_ids):`")
        return self.current

    def single_task(self) -> int:
        """The task of all rows. Raises `RuntimeError` if there is none, or more than one."""
        tasks = self.required().tasks
        first = int(tasks.reshape(-1)[0])
        if bool((tasks != first).any()):
            raise RuntimeError("rows of several tasks are selected; a merge or a conversion needs one task")
        return first


def select(tasks: Tensor, weights: Mapping[str, Tensor]) -> SelectedTasks:
    """Task ids (rows,) or (rows, tokens), and by adapter the weights (layers, T, ranks) → what layers read.

    Raises `ValueError` for ids that are not of a task, and for another shape.
    """
    first = next(iter(weights.values()))
    number = first.shape[1]
    if tasks.ndim not in (1, 2) or tasks.dtype != torch.int64 or not tasks.numel():
        raise ValueError(
            f"task ids are int64, (rows,) or (rows, tokens); these are {tasks.dtype}, {tuple(tasks.shape)}"
        )
    # On a GPU the check would wait for it; there an id that is not of a task fails in `one_hot`.
    if tasks.device.type == "cpu" and not (int(tasks.min()) >= 0 and int(tasks.max()) < number):
        raise ValueError(
            f"task ids are from 0 to {number - 1}; these are from {int(tasks.min())} to {int(tasks.max())}"
        )
    one_hot = functional.one_hot(tasks.to(first.device).reshape(-1), number).to(first.dtype)
    if tasks.ndim == 2:
        return SelectedTasks(tasks, {name: each.unbind() for name, each in weights.items()}, one_hot)
    with torch.autocast(first.device.type, enabled=False):
        return SelectedTasks(tasks, {name: (one_hot @ each).unbind() for name, each in weights.items()}, None)
