"""LoRA (arXiv 2106.09685) through PEFT: low-rank deltas of the decoder's projections are trained, nothing else.

Which layers these are is found by ``targets``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.adapters import LoraWeights
from multitask_trainer.base_model.loading import Precision, torch_dtype
from multitask_trainer.errors import StageError
from multitask_trainer.tuning.method import SharedByAllTasks
from multitask_trainer.tuning.peft_model import PREFIX, WEIGHTS, save_adapter, wrap
from multitask_trainer.tuning.served_form import check_served_form, write_adapter
from multitask_trainer.tuning.targets import LoraTargets, find_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STACKS = "stacked_parameters.json"
"""Beside PEFT's files: the layer in PEFT's names → the path of the stacked weights that it changes, and their number.
PEFT's names do not say which of a module's stacked weights a delta belongs to."""
_PARTS = {".lora_A.weight": "A", ".lora_B.weight": "B"}


class Lora(SharedByAllTasks):
    """See `TuningMethod`. A layer computes W x + s B A x, with the factor s of `Tuning.scaling`: α / r, or α / √r."""

    freezes_base = True

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning

    def check(self, load: Callable[[], PreTrainedModel], precision: Precision) -> list[str]:
        """The kinds of projections that cannot be adapted; none if ``targetModules`` chooses."""
        targets = lora_targets(load(), self._tuning)
        check_served_form(load, self.prepare, self._served_weights, precision)
        return [] if self._tuning.target_modules else targets.notices()

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """A PEFT model. Raises `StageError` if nothing can be adapted, or not what ``targetModules`` names."""
        from peft import LoraConfig

        targets = lora_targets(model, self._tuning)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self._tuning.rank,
            lora_alpha=self._tuning.alpha,  # type: ignore[arg-type]  # PEFT only divides it
            use_rslora=bool(self._tuning.use_rslora),
            lora_dropout=self._tuning.dropout,
            target_modules=list(targets.linear),
            target_parameters=list(targets.experts) or None,
            fan_in_fan_out=is_transposed(model, targets),
            bias="none",
        )
        return wrap(model, config)

    def save(self, model: nn.Module, folder: Path) -> None:
        """A PEFT adapter folder."""
        save_adapter(model, folder)
        stacks = _stacks(model)
        if stacks:
            (folder / _STACKS).write_text(json.dumps(stacks, indent=1, sort_keys=True), "utf-8")

    def load(self, model: nn.Module, folder: Path) -> None:
        """Replace A and B of every layer."""
        from peft import get_peft_model_state_dict

        weights = load_file(folder / WEIGHTS)
        expected = get_peft_model_state_dict(model)
        if {name: value.shape for name, value in weights.items()} != {name: v.shape for name, v in expected.items()}:
            raise StageError(f"{folder}: this adapter has other layers or another rank; redo the stage that made it")
        with torch.no_grad():
            for name, value in expected.items():  # they share the memory of the model's own
                value.copy_(weights[name])

    def write_servable(self, base: Path, weights: Path, task: str, folder: Path, precision: Precision) -> None:
        """The adapter in the final dtype, see `write_adapter`."""
        del base, task  # all tasks of a run share the adapter, and it does not hold the base
        dtype = torch_dtype(precision)
        stacks = json.loads((weights / _STACKS).read_text("utf-8")) if (weights / _STACKS).exists() else {}
        tensors = dict(_served(name, value.to(dtype), stacks) for name, value in load_file(weights / WEIGHTS).items())
        write_adapter(folder, tensors, rank=self._tuning.rank, scaling=self._tuning.scaling)

    def _served_weights(self, model: nn.Module) -> LoraWeights:
        """The adapter of a PEFT model as the engine reads it from what `write_servable` writes."""
        from peft import get_peft_model_state_dict

        stacks = _stacks(model)
        tensors = dict(_served(name, value, stacks) for name, value in get_peft_model_state_dict(model).items())
        scaling = self._tuning.scaling
        layers = {name.rpartition(".")[0] for name in tensors}
        return {layer: (tensors[f"{layer}.A"], tensors[f"{layer}.B"] * scaling) for layer in sorted(layers)}

    def servable_key(self, task: str) -> str:
        """One adapter for all tasks."""
        del task
        return "adapter"


def lora_targets(model: PreTrainedModel, tuning: Tuning) -> LoraTargets:
    """What ``tuning`` adapts of ``model``. Raises `StageError` if that is nothing, or a name in it is no such layer."""
    if tuning.has_experts:
        found = find_targets(model).linear_only(f"{tuning.method} adapts linear layers only")
    else:
        found = find_targets(model, dropout=tuning.dropout)
    for name in tuning.target_modules:
        named = found.named([name])
        if not named.linear and not named.experts:
            reason = found.why_not(name)
            problem = f"{name}: {reason}" if reason else f"{name}: the base model has no such layer"
            raise StageError(
                f"tuning.targetModules: {problem}; the layers that {tuning.method} adapts are called "
                f"{', '.join(found.names) or 'nothing'}; name some of those"
            )
    if not found.names:
        raise StageError(
            f"tuning.method: {tuning.method} has nothing to adapt in this base model"
            + "".join(f"; {notice}" for notice in found.notices(tuning.method))
            + "; use method Full, or another base model"
        )
    return found.named(tuning.target_modules) if tuning.target_modules else found


def is_transposed(model: PreTrainedModel, targets: LoraTargets) -> bool:
    """Whether all layers are ``Conv1D``, which has its weight as (in, out)."""
    layers = [model.get_submodule(path) for path in targets.linear]
    return bool(layers) and not any(isinstance(layer, nn.Linear) for layer in layers) and not targets.experts


def _stacks(model: nn.Module) -> dict[str, tuple[str, int]]:
    from peft.tuners.lora.layer import ParamWrapper

    return {
        name.removeprefix(PREFIX): (
            f"{name.removeprefix(PREFIX).replace('.base_layer', '')}.{module.parameter_name}",
            module.num_experts,
        )
        for name, module in model.named_modules()
        if isinstance(module, ParamWrapper)
    }


def _served(name: str, value: Tensor, stacks: dict[str, tuple[str, int]]) -> tuple[str, Tensor]:
    """``base_model.model.L.lora_A.weight`` → ``L.A``; of stacked weights as (experts, r, in) and (experts, out, r).

    PEFT keeps A of the experts one after the other, (experts · r, in), and B as (out, r · experts), by rank first.
    """
    for ending, part in _PARTS.items():
        if name.startswith(PREFIX) and name.endswith(ending):
            layer = name.removeprefix(PREFIX).removesuffix(ending)
            if layer not in stacks:
                return f"{layer}.{part}", value
            path, experts = stacks[layer]
            if part == "A":
                return f"{path}.A", value.reshape(experts, -1, value.shape[1]).contiguous()
            return f"{path}.B", value.reshape(len(value), -1, experts).permute(2, 0, 1).contiguous()
    raise StageError(f"the adapter holds {name!r}, which is not a low-rank factor; use plain LoRA settings")
