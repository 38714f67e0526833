"""CGC-LoRA (arXiv 2402.01684): experts common to the tasks of a group and experts of each task, behind a gate by task.

What a layer computes is in ``cgc_lora``. A task is served by an ordinary LoRA, its delta (`experts.collapse`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.adapters import LoraWeights
from multitask_trainer.base_model.loading import Precision, torch_dtype
from multitask_trainer.errors import StageError
from multitask_trainer.tuning.lora import is_transposed, lora_targets
from multitask_trainer.tuning.peft_model import save_adapter, wrap
from multitask_trainer.tuning.served_form import check_served_form, write_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from multitask_trainer.tuning.cgc_lora import CgcLoraModel


class CgcLora:
    """See `TuningMethod`. ``tasks`` are those of the run; nothing but `prepare` and what takes its model needs them."""

    freezes_base = True

    def __init__(self, tuning: Tuning, tasks: Sequence[str]) -> None:
        self._tuning = tuning.with_defaults()
        self._tasks = tuple(tasks)

    def check(self, load: Callable[[], PreTrainedModel], precision: Precision) -> list[str]:
        """The kinds of projections that cannot be adapted; none if ``targetModules`` chooses.

        The layers are the same whatever tasks and ranks are, so two tasks and experts of rank 1 try them.
        """
        targets = lora_targets(load(), self._tuning)
        tried = CgcLora(self._tuning.model_copy(update={"expert_rank": 1}), ("first", "second"))
        check_served_form(
            load,
            tried.prepare,
            lambda model: tried._served_weights(model, "second"),
            precision,
            method=self._tuning.method,
            selected=lambda model: tried.select_tasks(model, torch.tensor([1])),
        )
        return [] if self._tuning.target_modules else targets.notices(self._tuning.method)

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """A PEFT model. Raises `StageError` if nothing can be adapted, or not what ``targetModules`` names."""
        from multitask_trainer.tuning.cgc_lora import CgcLoraConfig, register

        register()
        targets = lora_targets(model, self._tuning)
        config = CgcLoraConfig(
            task_type="CAUSAL_LM",
            tasks=list(self._tasks),
            r=self._tuning.rank,
            lora_alpha=self._tuning.alpha,
            use_rslora=bool(self._tuning.use_rslora),
            lora_dropout=self._tuning.dropout,
            common_experts=self._tuning.common_experts or 0,
            specific_experts=self._tuning.specific_experts or 0,
            expert_rank=self._tuning.expert_rank_in(len(self._tasks)),
            gate=self._tuning.gate or "Task",
            target_modules=list(targets.linear),
            fan_in_fan_out=is_transposed(model, targets),
        )
        return wrap(model, config)

    def save(self, model: nn.Module, folder: Path) -> None:
        """A PEFT adapter folder of this method, with all experts, the gates, and the names of the tasks."""
        save_adapter(model, folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Replace the common experts, the gates, and embeddings and experts of the tasks that the folder has too.

        Raises `StageError` if layers, ranks or numbers of experts differ.
        """
        from multitask_trainer.tuning.cgc_lora.folder import load_by_task, read_adapter

        try:
            load_by_task(_tuner(model), read_adapter(folder))
        except ValueError as error:
            raise StageError(f"{folder}: this adapter does not fit ({error}); redo the stage that made it") from error

    def write_servable(self, base: Path, weights: Path, task: str, folder: Path, precision: Precision) -> None:
        """The LoRA of ``task`` as `Lora.write_servable` writes one: collapsed in fp32, then in the final dtype."""
        from multitask_trainer.tuning.cgc_lora.folder import read_adapter

        del base  # an adapter does not hold it
        saved = read_adapter(weights)
        dtype = torch_dtype(precision)
        tensors: dict[str, Tensor] = {}
        try:
            for path, a, b in saved.collapsed(task):
                tensors |= {f"{path}.A": a.to(dtype), f"{path}.B": b.to(dtype)}
        except ValueError as error:
            raise StageError(f"{weights}: {error}") from error
        write_adapter(folder, tensors, rank=saved.config.layout.ranks_per_task, scaling=saved.config.scaling)

    def servable_key(self, task: str) -> str:
        """One adapter for each task."""
        return task

    def select_tasks(self, model: nn.Module, tasks: Tensor | None) -> AbstractContextManager[None]:
        """The experts and the gate of each row's task."""
        if tasks is None:
            raise ValueError("CGC-LoRA has weights of single tasks; say of which task each row is")
        return _tuner(model).select_tasks(tasks)

    def decays(self, name: str) -> bool:
        """Not the gates and the task embeddings: their size is how sure a gate is."""
        return not any(part in name for part in ("cgc_lora_gate", "cgc_lora_task_embedding"))

    def task_step(self, model: nn.Module, optimizer: Optimizer, present: Tensor) -> None:
        """See `step_by_task`."""
        from multitask_trainer.tuning.cgc_lora.task_steps import step_by_task

        step_by_task(optimizer, _tuner(model).owned_parameters(), present)

    def _served_weights(self, model: nn.Module, task: str) -> LoraWeights:
        """The LoRA of a task as the engine reads it from what `write_servable` writes."""
        tuner = _tuner(model)
        scaling = tuner.config_of().scaling
        return {path: (a, b * scaling) for path, a, b in tuner.collapsed(task)}


def _tuner(model: nn.Module) -> CgcLoraModel:
    """The tuner of what `CgcLora.prepare` gave."""
    tuner: CgcLoraModel = model.base_model  # type: ignore[assignment]
    return tuner
