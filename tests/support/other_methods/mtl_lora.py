"""MTL-LoRA (arXiv 2410.09437): one projection down, a matrix of each task's own, and several projections up.

    h = W x + (α / r) Σ_i softmax(w_t / temperature)_i B_i Λ_t A x       for a row of task t

They begin as in the authors' program: A (r, in) and B_i (out, r) as in LoRA, Λ_t (r, r) as the identity, and w_t at
random, without which all B_i would stay equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from multitask_trainer.tuning.lora import lora_targets
from support.other_methods.method import OtherMethod, Selection

UPS = 3
"""Projections up. With half of LoRA's rank and square layers, as many weights as LoRA but for Λ and w."""
TEMPERATURE = 0.5
_MARK = ".mtl_"


class MtlLoraLinear(nn.Module):
    """The adapted layer."""

    def __init__(self, base: nn.Linear, selection: Selection, *, tasks: int, rank: int, scaling: float) -> None:
        super().__init__()
        self.base_layer = base
        self.selection = selection
        self.scaling = scaling
        self.mtl_down = nn.Parameter(torch.empty(rank, base.in_features))
        nn.init.kaiming_uniform_(self.mtl_down, a=math.sqrt(5))
        self.mtl_up = nn.Parameter(torch.zeros(UPS, base.out_features, rank))
        self.mtl_task = nn.Parameter(torch.eye(rank).repeat(tasks, 1, 1))
        self.mtl_mix = nn.Parameter(torch.empty(tasks, UPS))
        nn.init.kaiming_uniform_(self.mtl_mix, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, tokens, in) → (rows, tokens, out)."""
        tasks = self.selection.of_rows(len(x))
        down = functional.linear(x, self.mtl_down) @ self.mtl_task[tasks].transpose(1, 2)
        up = torch.einsum("bu,uor->bor", (self.mtl_mix[tasks] / TEMPERATURE).softmax(-1), self.mtl_up)
        result: Tensor = self.base_layer(x) + self.scaling * (down @ up.transpose(1, 2))
        return result


class MtlLora(OtherMethod):
    """Half of the rank of LoRA with the same budget."""

    @property
    def rank(self) -> int:
        return self.tuning.rank // 2

    @property
    def scaling(self) -> float:
        """α / r of LoRA with the same budget."""
        return self.tuning.alpha / self.tuning.rank

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """The same layers as LoRA's."""
        model.requires_grad_(requires_grad=False)
        for path in lora_targets(model, self.tuning).linear:
            parent, _, name = path.rpartition(".")
            layer = MtlLoraLinear(
                model.get_submodule(path), self.selection, tasks=len(self.tasks), rank=self.rank, scaling=self.scaling
            )
            setattr(model.get_submodule(parent), name, layer)
        return model

    def lora_of(self, task: int, weights: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
        """A, and Σ softmax(w)_i B_i Λ."""
        layers = {}
        for path in {name.partition(_MARK)[0] for name in weights}:
            down, up, own, mix = (weights[f"{path}{_MARK}{part}"] for part in ("down", "up", "task", "mix"))
            together = torch.einsum("u,uor->or", (mix[task] / TEMPERATURE).softmax(-1), up)
            layers[path] = (down, together @ own[task])
        return layers, self.scaling
