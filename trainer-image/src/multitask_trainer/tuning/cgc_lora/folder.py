"""A saved adapter: loaded into a model by the names of tasks, and collapsed to the LoRA of one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from multitask_trainer.tuning.cgc_lora.config import CgcLoraConfig
from multitask_trainer.tuning.cgc_lora.experts import collapse, gate_weights
from multitask_trainer.tuning.cgc_lora.layer import CgcLoraLinear
from multitask_trainer.tuning.cgc_lora.model import CgcLoraModel, register

_WEIGHTS = "adapter_model.safetensors"
_EMBEDDING = "base_model.cgc_lora_task_embedding"
_PREFIX = "base_model.model."
_SAME = ("common_experts", "specific_experts", "expert_rank", "gate", "task_embedding_dim")
"""Settings that adapters must share for weights of one to go into the other."""


@dataclass(frozen=True)
class SavedAdapter:
    """What ``save_pretrained`` wrote for one adapter."""

    config: CgcLoraConfig
    layers: Mapping[str, Mapping[str, Tensor]]
    """Path in the base model → ``cgc_lora_A``, ``cgc_lora_B`` and ``cgc_lora_gate``."""
    embedding: Tensor | None
    """(T, d); None for a uniform gate."""

    def collapsed(self, task: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The LoRA of ``task``: path, A' and B' in fp32. Its scaling is the adapter's. Raises `ValueError`."""
        if task not in self.config.tasks:
            raise ValueError(f"{task!r} is not a task of this adapter; its tasks are {', '.join(self.config.tasks)}")
        layout, number = self.config.layout, self.config.tasks.index(task)
        for path, parts in self.layers.items():
            if self.embedding is None:
                weights = torch.full((layout.per_task,), 1 / layout.per_task)
            else:
                weights = gate_weights(self.embedding[number], parts["cgc_lora_gate"])
            yield path, *collapse(parts["cgc_lora_A"], parts["cgc_lora_B"], weights, layout, number)


def read_adapter(folder: Path) -> SavedAdapter:
    """Read an adapter folder of this method. Raises `ValueError` for another one."""
    register()
    config = CgcLoraConfig.from_pretrained(str(folder))
    if not isinstance(config, CgcLoraConfig):
        raise ValueError(f"{folder}: this is no adapter of CGC-LoRA")
    tensors = load_file(folder / _WEIGHTS)
    embedding = tensors.pop(_EMBEDDING, None)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        path, _, part = name.removeprefix(_PREFIX).rpartition(".")
        layers.setdefault(path, {})[part] = value
    return SavedAdapter(config, layers, embedding)


def load_by_task(model: CgcLoraModel, saved: SavedAdapter, adapter: str = "default") -> None:
    """Copy the common experts, the gates, and experts and embeddings of the tasks that both have; others stay.

    Raises `ValueError` if layers, or the experts of a task, differ.
    """
    config = model.config_of(adapter)
    layers = {
        path: module
        for path, module in model.model.named_modules()
        if isinstance(module, CgcLoraLinear) and adapter in module.layouts
    }
    if layers.keys() != saved.layers.keys():
        raise ValueError(f"it has other layers: {min(layers.keys() ^ saved.layers.keys())}")
    for name in _SAME:
        if getattr(config, name) != getattr(saved.config, name):
            raise ValueError(f"its {name} is {getattr(saved.config, name)}, and here it is {getattr(config, name)}")
    ranks = _matching(config, saved.config)
    with torch.no_grad():
        for path, layer in layers.items():
            for part, dim in (("cgc_lora_A", 0), ("cgc_lora_B", 1)):
                _copy(getattr(layer, part)[adapter], saved.layers[path][part], dim, ranks, where=path)
            if adapter in layer.cgc_lora_gate:
                layer.cgc_lora_gate[adapter].copy_(saved.layers[path]["cgc_lora_gate"])
        if saved.embedding is not None:
            tasks = [(config.tasks.index(name), saved.config.tasks.index(name)) for name in _shared(config, saved)]
            pairs = torch.tensor(tasks, dtype=torch.int64).reshape(-1, 2).T
            _copy(model.cgc_lora_task_embedding[adapter], saved.embedding, 0, pairs, where=_EMBEDDING)


def write_lora(saved: SavedAdapter, task: str, folder: Path) -> None:
    """Write the LoRA of ``task`` as an ordinary adapter folder of PEFT, in fp32. Raises `ValueError`."""
    config = saved.config
    rank = config.layout.ranks_per_task
    tensors = {}
    for path, a, b in saved.collapsed(task):
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = a
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = b
    LoraConfig(
        task_type=config.task_type,
        r=rank,
        lora_alpha=config.scaling * rank,  # type: ignore[arg-type]  # PEFT only divides it
        target_modules=sorted(saved.layers),
        fan_in_fan_out=config.fan_in_fan_out,
        bias="none",
        inference_mode=True,
    ).save_pretrained(str(folder))
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})


def _shared(config: CgcLoraConfig, saved: SavedAdapter) -> list[str]:
    return [name for name in config.tasks if name in saved.config.tasks]


def _matching(config: CgcLoraConfig, saved: CgcLoraConfig) -> Tensor:
    """(2, n): ranks of ``config``, and those of ``saved`` that belong to the same expert."""
    cpu = torch.device("cpu")
    here, there = config.layout.owners(cpu), saved.layout.owners(cpu)
    owners = [(config.layout.tasks, saved.layout.tasks)]
    owners += [(number, saved.tasks.index(name)) for number, name in enumerate(config.tasks) if name in saved.tasks]
    pairs = [torch.stack([(here == own).nonzero()[:, 0], (there == other).nonzero()[:, 0]]) for own, other in owners]
    return torch.cat(pairs, dim=1)


def _copy(value: Tensor, source: Tensor, dim: int, pairs: Tensor, *, where: str) -> None:
    if value.ndim != source.ndim or value.shape[1 - dim] != source.shape[1 - dim]:
        raise ValueError(f"{where} is {tuple(source.shape)}, and here it is {tuple(value.shape)}")
    to, of = pairs.to(value.device)
    value.index_copy_(dim, to, source.to(value).index_select(dim, of))
