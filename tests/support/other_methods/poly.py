"""Polytropon (arXiv 2202.13914) as PEFT has it: every task mixes a few LoRA modules, its skills, in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PolyConfig
from peft.tuners.poly.layer import Linear as PolyLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from multitask_trainer.tuning.lora import lora_targets
from multitask_trainer.tuning.peft_model import PREFIX, wrap
from support.other_methods.method import OtherMethod

SKILLS = 4
_PARTS = (".poly_lora_A.default", ".poly_lora_B.default", ".poly_router.default.module_logits")


class Poly(OtherMethod):
    """Four skills of a quarter of LoRA's rank: as many weights, but for the router's."""

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """PEFT's model. Its layers take the tasks of their rows as an argument, which a hook gives them."""
        config = PolyConfig(
            task_type="CAUSAL_LM",
            r=self.tuning.rank // SKILLS,
            n_tasks=len(self.tasks),
            n_skills=SKILLS,
            target_modules=list(lora_targets(model, self.tuning).linear),
        )
        adapted = wrap(model, config)

        def give_tasks(_layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return arguments, named | {"task_ids": self.selection.of_rows(len(arguments[0]))}

        for layer in adapted.modules():
            if isinstance(layer, PolyLinear):
                layer.register_forward_pre_hook(give_tasks, with_kwargs=True)
        return adapted

    def lora_of(self, task: int, weights: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
        """Σ_s π_s A_s and Σ_s π_s B_s, with π as PEFT has it outside of training; PEFT divides by the rank."""
        layers = {}
        for path in {name.removesuffix(_PARTS[0]) for name in weights if name.endswith(_PARTS[0])}:
            a, b, logits = (weights[path + part] for part in _PARTS)
            shares = logits[task].sigmoid()
            shares = shares / (shares.sum() + 1e-12)
            down = torch.einsum("s,sdr->rd", shares, a[0])
            up = torch.einsum("s,srd->dr", shares, b[0])
            layers[path.removeprefix(PREFIX)] = (down, up)
        return layers, SKILLS / self.tuning.rank
