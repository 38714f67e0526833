"""A model whose linear layers have the experts of CGC-LoRA, as PEFT's own tuners are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from multitask_trainer.tuning.cgc_lora.config import PEFT_TYPE, CgcLoraConfig
from multitask_trainer.tuning.cgc_lora.experts import gate_weights, spread
from multitask_trainer.tuning.cgc_lora.layer import CgcLoraLinear
from multitask_trainer.tuning.cgc_lora.selection import TaskSelection, select
from multitask_trainer.tuning.cgc_lora.task_steps import OwnedParameter

_PREFIX = "cgc_lora_"


def register() -> None:
    """Make the method known to PEFT, so that `get_peft_model` and `PeftModel.from_pretrained` take it.

    PEFT finds its methods in these mappings. Its own `register_peft_method` takes members of its enumeration only; they
    are strings, and the mappings take any string.
    """
    mappings: list[tuple[Any, object]] = [
        (PEFT_TYPE_TO_CONFIG_MAPPING, CgcLoraConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, CgcLoraModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, _PREFIX),
    ]
    for mapping, value in mappings:
        mapping[PEFT_TYPE] = value


class CgcLoraModel(BaseTuner):
    """The tuner. `select_tasks` says of which task the rows are; `merge` and a conversion to LoRA are of one task.

    ``cgc_lora_task_embedding`` is adapter → e (T, d), drawn from N(0, 1) by torch's seed; it has none for a uniform
    gate. Adapters of one model have the same tasks.
    """

    uses_shared_state = True
    prefix = _PREFIX
    tuner_layer_cls = CgcLoraLinear
    target_module_mapping = {}  # noqa: RUF012 - PEFT declares it as of an instance

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """See `BaseTuner.inject_adapter`: also draws the task embedding, and numbers the layers."""
        if "selection" not in vars(self):
            self.selection = TaskSelection()
            self.cgc_lora_task_embedding = nn.ParameterDict()
        config = self.config_of(adapter_name)
        self._check_new_adapter_config(config)
        if config.gate == "Task":
            embedding = torch.randn(len(config.tasks), config.task_embedding_dim)
            self.cgc_lora_task_embedding[adapter_name] = nn.Parameter(embedding.to(next(model.parameters()).device))
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for number, layer in enumerate(self.expert_layers(adapter_name)):
            layer.layer_numbers[adapter_name] = number

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        super()._check_new_adapter_config(config)
        if len({tuple(self.config_of(name).tasks) for name in self.peft_config}) > 1:
            raise ValueError("the adapters of one model must have the same tasks, in the same order")

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        del current_key, parameter_name
        config = cast("CgcLoraConfig", peft_config)
        if isinstance(target, CgcLoraLinear):
            target.update_layer(adapter_name, config)
            return
        layer = CgcLoraLinear(target, self.selection, self.cgc_lora_task_embedding)
        layer.set_adapter(adapter_name)
        layer.update_layer(adapter_name, config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(requires_grad=False)
        self._replace_module(parent, target_name, layer, target)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """See `BaseTuner.set_adapter`; the task embeddings go with their layers."""
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        for name, embedding in self.cgc_lora_task_embedding.items():
            embedding.requires_grad_(name in self.active_adapters and not inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """See `BaseTuner.delete_adapter`."""
        super().delete_adapter(adapter_name)
        if adapter_name in self.cgc_lora_task_embedding:
            del self.cgc_lora_task_embedding[adapter_name]

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def config_of(self, adapter: str = "default") -> CgcLoraConfig:
        """The settings of an adapter."""
        return cast("CgcLoraConfig", self.peft_config[adapter])

    def expert_layers(self, adapter: str) -> list[CgcLoraLinear]:
        """The layers that have the adapter, in the model's order."""
        return [
            module for module in self.model.modules() if isinstance(module, CgcLoraLinear) and adapter in module.layouts
        ]

    def select_tasks(self, tasks: Tensor | Sequence[str] | str) -> AbstractContextManager[None]:
        """A context in which row i of a batch is of ``tasks[i]``.

        Names, or ids, int64: (rows,), or (rows, tokens); one name, or one id, is for all rows. The gates of all layers
        are computed here: enter a context for each forward pass that is followed by a backward pass, and leave it after
        that. Raises `ValueError` for what is no task.
        """
        ids = tasks if isinstance(tasks, Tensor) else self._ids([tasks] if isinstance(tasks, str) else tasks)
        weights = {name: self._rank_weights(name) for name in self.active_adapters}
        return self.selection.use(select(ids, weights))

    def _ids(self, names: Sequence[str]) -> Tensor:
        known = self.config_of(self.active_adapters[0]).tasks
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a task of this adapter; its tasks are {', '.join(known)}")
        return torch.tensor([known.index(name) for name in names])

    def _rank_weights(self, adapter: str) -> Tensor:
        """(layers, T, ranks): what each layer multiplies the ranks of a task's row by, α / r included."""
        config = self.config_of(adapter)
        layers, layout = self.expert_layers(adapter), config.layout
        if config.gate == "Task":
            gates = torch.stack([layer.cgc_lora_gate[adapter] for layer in layers])
            weights = gate_weights(self.cgc_lora_task_embedding[adapter], gates)
        else:
            a = layers[0].cgc_lora_A[adapter]
            weights = a.new_full((len(layers), layout.tasks, layout.per_task), 1 / layout.per_task)
        return spread(weights, layout) * config.scaling

    def owned_parameters(self, adapter: str = "default") -> list[OwnedParameter]:
        """What belongs to single tasks, for `step_by_task`: the embedding, and A and B if tasks have own experts."""
        config = self.config_of(adapter)
        layers, layout = self.expert_layers(adapter), config.layout
        device = layers[0].cgc_lora_A[adapter].device
        owned = []
        if layout.specific:
            owners = layout.owners(device)
            for layer in layers:
                owned += [OwnedParameter(layer.cgc_lora_A[adapter], 0, owners)]
                owned += [OwnedParameter(layer.cgc_lora_B[adapter], 1, owners)]
        if adapter in self.cgc_lora_task_embedding:
            tasks = torch.arange(layout.tasks, device=device)
            owned.append(OwnedParameter(self.cgc_lora_task_embedding[adapter], 0, tasks))
        return owned

    # -- one task's LoRA -----------------------------------------------------------------------------------------------

    def collapsed(self, task: str, adapter: str = "default") -> Iterator[tuple[str, Tensor, Tensor]]:
        """The task's LoRA, layer by layer: path in the base model, A' and B' in fp32; its scaling is the adapter's."""
        (number,) = self._ids([task]).tolist()
        for path, module in self.model.named_modules():
            if isinstance(module, CgcLoraLinear) and adapter in module.layouts:
                yield path, *(factor.detach() for factor in module.collapsed(adapter, number))
