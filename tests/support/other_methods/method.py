"""What tuning methods of others have in common here: trained beside a frozen base, served as one LoRA for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from multitask_api.resource.tuning import Tuning
from multitask_trainer.base_model.loading import Precision, torch_dtype
from multitask_trainer.tuning.method import OptimizerDefaults
from multitask_trainer.tuning.served_form import write_adapter

WEIGHTS = "weights.safetensors"


class Selection:
    """The tasks of the rows of the current forward passes, (rows,) int64, or (1,) for all rows."""

    def __init__(self) -> None:
        self.tasks: Tensor | None = None

    @contextmanager
    def use(self, tasks: Tensor) -> Iterator[None]:
        before, self.tasks = self.tasks, tasks
        try:
            yield
        finally:
            self.tasks = before

    def of_rows(self, rows: int) -> Tensor:
        """(rows,)."""
        if self.tasks is None or self.tasks.ndim != 1:
            raise RuntimeError("select one task for each row; several rows in one sequence are not supported here")
        return self.tasks.expand(rows) if len(self.tasks) == 1 else self.tasks


class OtherMethod(OptimizerDefaults, ABC):
    """See `multitask_trainer.tuning.TuningMethod`. Every task's delta is a LoRA: scaling · B A for each layer."""

    freezes_base = True

    def __init__(self, tuning: Tuning, tasks: Sequence[str]) -> None:
        self.tuning = tuning
        self.tasks = tuple(tasks)
        self.selection = Selection()

    @abstractmethod
    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """The model with its adapters."""

    @abstractmethod
    def lora_of(self, task: int, weights: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
        """Layer → A (r, in) and B (out, r) of a task, from the saved weights; and the scaling."""

    def check(self, load: Callable[[], PreTrainedModel], precision: Precision) -> list[str]:
        """Nothing is said of the base."""
        del load, precision
        return []

    def save(self, model: nn.Module, folder: Path) -> None:
        """All that is trained."""
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        save_file({name: value.detach().contiguous() for name, value in trained.items()}, folder / WEIGHTS)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Not needed: these runs begin at the base."""
        raise NotImplementedError

    def write_servable(self, base: Path, weights: Path, task: str, folder: Path, precision: Precision) -> None:
        """The LoRA of the task."""
        del base
        layers, scaling = self.lora_of(self.tasks.index(task), load_file(weights / WEIGHTS))
        dtype = torch_dtype(precision)
        tensors = {
            f"{path}.{part}": value.to(dtype).contiguous()
            for path, pair in layers.items()
            for part, value in zip("AB", pair, strict=True)
        }
        rank = len(next(iter(layers.values()))[0])
        write_adapter(folder, tensors, rank=rank, scaling=scaling)

    def servable_key(self, task: str) -> str:
        """One adapter for each task."""
        return task

    def select_tasks(self, model: nn.Module, tasks: Tensor | None) -> AbstractContextManager[None]:
        """The weights of each row's task."""
        del model
        if tasks is None:
            raise ValueError("say of which task each row is")
        return self.selection.use(tasks)
