"""The adapted layer of CGC-LoRA: the experts of all tasks as one product down and one up."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional

from multitask_serving.engine.model.adapters import linear_features
from multitask_trainer.tuning.cgc_lora.config import CgcLoraConfig
from multitask_trainer.tuning.cgc_lora.experts import ExpertLayout, collapse, gate_weights
from multitask_trainer.tuning.cgc_lora.selection import TaskSelection

_INITIAL_STD = 0.01
"""Of A; B begins as zeros."""


class CgcLoraLinear(nn.Module, BaseTunerLayer):
    """W x + B ((A x) ⊙ w): w are the weights of the row's task for each rank, α / r included, zero for other tasks'.

    For each adapter ``cgc_lora_A`` (ranks, in), ``cgc_lora_B`` (out, ranks) and, unless the gate is ``Uniform``,
    ``cgc_lora_gate`` W_g (m_c + m_s, d). ``task_embeddings`` is the model's, adapter → (T, d).
    """

    adapter_layer_names = ("cgc_lora_A", "cgc_lora_B", "cgc_lora_gate")
    other_param_names = ("cgc_lora_dropout", "layouts", "scaling", "layer_numbers")

    def __init__(self, base_layer: nn.Module, selection: TaskSelection, task_embeddings: nn.ParameterDict) -> None:
        super().__init__()
        features = linear_features(base_layer)
        if features is None:
            raise TypeError(f"CGC-LoRA adapts nn.Linear and Conv1D, and {type(base_layer).__name__} is neither")
        self.base_layer = base_layer
        self.in_features, self.out_features = features
        self.is_transposed = not isinstance(base_layer, nn.Linear)
        self.selection = selection
        # In a tuple, so that the embedding is a parameter of the model alone.
        self._task_embeddings = (task_embeddings,)
        self.cgc_lora_A = nn.ParameterDict()
        self.cgc_lora_B = nn.ParameterDict()
        self.cgc_lora_gate = nn.ParameterDict()
        self.cgc_lora_dropout = nn.ModuleDict()
        self.layouts: dict[str, ExpertLayout] = {}
        self.scaling: dict[str, float] = {}
        self.layer_numbers: dict[str, int] = {}
        """Adapter → which of its layers this is."""
        self.merged_adapters: list[str] = []
        self._merged_tasks: dict[str, int] = {}
        self._disable_adapters = False

    def update_layer(self, adapter_name: str, config: CgcLoraConfig) -> None:
        """Add an adapter: A from N(0, 0.01²) by torch's seed, B = 0, and W_g = 0, which makes all weights equal."""
        layout = config.layout
        self.layouts[adapter_name] = layout
        self.scaling[adapter_name] = config.scaling
        self.cgc_lora_dropout[adapter_name] = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        self.cgc_lora_A[adapter_name] = nn.Parameter(torch.randn(layout.ranks, self.in_features) * _INITIAL_STD)
        self.cgc_lora_B[adapter_name] = nn.Parameter(torch.zeros(self.out_features, layout.ranks))
        if config.gate == "Task":
            self.cgc_lora_gate[adapter_name] = nn.Parameter(torch.zeros(layout.per_task, config.task_embedding_dim))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, in) → (…, out); the rows are those of the selection, in its order. Raises `RuntimeError` without one."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        if self.merged:
            self._check_merged_task()
            return result
        dtype = result.dtype
        for name in self.active_adapters:
            if name not in self.layouts:
                continue
            a, b = self.cgc_lora_A[name], self.cgc_lora_B[name]
            inputs: Tensor = self._cast_input_dtype(x, a.dtype)
            down = functional.linear(self.cgc_lora_dropout[name](inputs), a)
            weighted = self.selection.required().apply(name, self.layer_numbers[name], down)
            result = result + functional.linear(weighted, b)
        return result.to(dtype)

    # -- one task's delta ----------------------------------------------------------------------------------------------

    def collapsed(self, adapter: str, task: int) -> tuple[Tensor, Tensor]:
        """A' and B' of ``task`` as `experts.collapse` gives them; α / r is not in them."""
        layout = self.layouts[adapter]
        if adapter in self.cgc_lora_gate:
            embedding = self._task_embeddings[0][adapter][task]
            weights = gate_weights(embedding, self.cgc_lora_gate[adapter])
        else:
            weights = self.cgc_lora_A[adapter].new_full((layout.per_task,), 1 / layout.per_task)
        return collapse(self.cgc_lora_A[adapter], self.cgc_lora_B[adapter], weights, layout, task)

    @torch.no_grad()
    def get_delta_weight(self, adapter: str, task: int | None = None) -> Tensor:
        """The change of the base weight, in its layout and in fp32: α / r · B' A' of ``task``, or of the selected task.

        Raises `RuntimeError` if neither names one task.
        """
        a, b = self.collapsed(adapter, self.selection.single_task() if task is None else task)
        delta = b @ a * self.scaling[adapter]
        return delta.T if self.is_transposed else delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the selected task's delta to the base weight, computed in fp32. Raises `RuntimeError`, `ValueError`."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.layouts:
                continue
            task = self.selection.single_task()
            weight = self.get_base_weight()
            merged = (weight.float() + self.get_delta_weight(name, task)).to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"the merged weights are not finite; the adapter {name} seems to be broken")
            self.set_base_weight(merged)
            self.merged_adapters.append(name)
            self._merged_tasks[name] = task

    def unmerge(self) -> None:
        """Take out of the base weight what `merge` added, whatever task is selected now."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight = self.get_base_weight()
            delta = self.get_delta_weight(name, self._merged_tasks.pop(name))
            self.set_base_weight((weight.float() - delta).to(weight.dtype))

    def _check_merged_task(self) -> None:
        """Raise `RuntimeError` if rows of another task than the merged one are selected."""
        selected = self.selection.current
        if selected is None:
            return
        if any(bool((selected.tasks != task).any()) for task in self._merged_tasks.values()):
            raise RuntimeError("rows of another task than the merged one are selected; unmerge the adapter first")

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True: of the selected task."""
        del adapter_name
        return True

    def __repr__(self) -> str:
        """As PEFT's layers show themselves."""
        return "cgc_lora." + super().__repr__()
