"""Loads one model of a bundle: weights, tokenizer, and its adapters side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from multitask_api.bundle import Adapter, ServedModel
from multitask_serving.engine.backbone import Backbone
from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.lora import AdapterIndex, Delta, attach

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ADAPTER_FILE = "adapter.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer. ``adapters`` gives each adapter's number; None is number 0, no adapter."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    index: AdapterIndex
    adapters: dict[str | None, int] = field(default_factory=lambda: {None: 0})

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
        """A model in memory, without adapters of its own."""
        return cls(model, tokenizer, AdapterIndex(model.device))

    def using(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Inside, row i of a forward pass takes ``adapters[i]``."""
        return self.index.use([self.adapters[name] for name in adapters])


def load_model(
    folder: Path, served: ServedModel, *, device: str = "cpu", adapters: Collection[str] | None = None
) -> LoadedModel:
    """The model ``served`` of the bundle in ``folder``, with all its adapters or only those named.

    Raises `InvalidBundle` when files are missing, broken, or do not fit each other.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    path = _inside(folder, served.path)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, served.dtype),
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidBundle(f"{path}: the model cannot be read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidBundle(f"{path}: the tokenizer is not a fast one; save it with a tokenizer.json")
    model.requires_grad_(requires_grad=False)
    model.eval()  # type: ignore[no-untyped-call]
    model.to(device)  # type: ignore[arg-type]
    Backbone.of(model).check(model)
    index = AdapterIndex(model.device)
    wanted = [adapter for adapter in served.adapters if adapters is None or adapter.name in adapters]
    attach(model, [read_adapter(folder, adapter) for adapter in wanted], index)
    numbers: dict[str | None, int] = {None: 0}
    numbers.update({adapter.name: number for number, adapter in enumerate(wanted, start=1)})
    return LoadedModel(model, tokenizer, index, numbers)


def read_adapter(folder: Path, adapter: Adapter) -> Delta:
    """An adapter's A and B by layer, in fp32 with the scaling in B. Raises `InvalidBundle`."""
    path = _inside(folder, adapter.path)
    path = path / ADAPTER_FILE if path.is_dir() else path
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidBundle(f"{path}: the adapter cannot be read: {error}") from error
    layers = {name.rpartition(".")[0] for name in tensors}
    if set(tensors) != {f"{layer}.{part}" for layer in layers for part in "AB"}:
        raise InvalidBundle(f"{path}: every layer needs exactly an A and a B; found {', '.join(sorted(tensors)[:6])} …")
    return {
        layer: (tensors[f"{layer}.A"].float(), tensors[f"{layer}.B"].float() * adapter.scaling)
        for layer in sorted(layers)
    }


def _inside(folder: Path, path: str) -> Path:
    # By its words alone: a mounted volume may well hold links.
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise InvalidBundle(f"{path!r} leads out of the bundle {folder}")
    return folder / path
