"""Loads one model of a bundle: weights, tokenizer and adapters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from multitask_api.bundle import Adapter, ForwardPath, ServedModel
from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import LoraWeights, attach_adapters
from multitask_serving.engine.model.backbone import MASKED, Backbone
from multitask_serving.engine.model.pretrained import read_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ADAPTER_FILE = "adapter.safetensors"


def device_name(device: str) -> str:
    """What computes on ``device`` (torch's name): ``cpu``, or the name of the GPU, such as ``NVIDIA H100 80GB HBM3``.

    Two devices of one name give the same answers to the last bits that near ties allow for.
    """
    return "cpu" if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for inference. ``adapter_numbers`` maps adapter names to numbers; None (no adapter) is 0."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    active_adapters: ActiveAdapters
    adapter_numbers: dict[str | None, int] = field(default_factory=lambda: {None: 0})
    path: ForwardPath = MASKED
    """How the model is run."""

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: ForwardPath | None = None
    ) -> LoadedModel:
        """Wrap a model in memory, without adapters."""
        return cls(model, tokenizer, ActiveAdapters(model.device), path=path or MASKED)

    def use_adapters(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """A context in which row i of every forward pass uses the adapter ``adapters[i]`` (None: no adapter)."""
        return self.active_adapters.use([self.adapter_numbers[name] for name in adapters])


def load_model(
    folder: Path, served: ServedModel, *, device: str = "cpu", adapters: Collection[str] | None = None
) -> LoadedModel:
    """Load the model ``served`` of the bundle in ``folder``, with all its adapters or only those named.

    ``device`` is torch's name. Raises `InvalidBundle` if files are missing or broken, or do not fit together.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = _resolve(folder, served.path)
    forward_path = served.forward_path or MASKED
    try:
        model, _ = read_pretrained(
            path,
            dtype=getattr(torch, served.dtype),
            attention=forward_path.attention,
            local_files_only=True,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidBundle(f"{path}: the model cannot be read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidBundle(f"{path}: the tokenizer is not a fast tokenizer; save it with a tokenizer.json")
    model.requires_grad_(requires_grad=False)
    model.eval()  # type: ignore[no-untyped-call]
    model.to(device)  # type: ignore[arg-type]
    Backbone.of(model, forward_path).check(model)
    active = ActiveAdapters(model.device)
    selected = [adapter for adapter in served.adapters if adapters is None or adapter.name in adapters]
    attach_adapters(model, [read_adapter(folder, adapter) for adapter in selected], active)
    numbers: dict[str | None, int] = {None: 0}
    numbers.update({adapter.name: number for number, adapter in enumerate(selected, start=1)})
    return LoadedModel(model, tokenizer, active, numbers, forward_path)


def read_adapter(folder: Path, adapter: Adapter) -> LoraWeights:
    """An adapter's A and B of each layer, in fp32, the scaling folded into B. Raises `InvalidBundle`."""
    path = _resolve(folder, adapter.path)
    path = path / ADAPTER_FILE if path.is_dir() else path
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidBundle(f"{path}: the adapter cannot be read: {error}") from error
    layers = {name.rpartition(".")[0] for name in tensors}
    if set(tensors) != {f"{layer}.{part}" for layer in layers for part in "AB"}:
        raise InvalidBundle(
            f"{path}: every layer needs exactly an A and a B; the file has {', '.join(sorted(tensors)[:6])} …"
        )
    return {
        layer: (tensors[f"{layer}.A"].float(), tensors[f"{layer}.B"].float() * adapter.scaling)
        for layer in sorted(layers)
    }


def _resolve(folder: Path, path: str) -> Path:
    # Symbolic links are not resolved: mounted volumes may contain them.
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise InvalidBundle(f"{path!r} is outside the bundle {folder}")
    return folder / path
