"""An adapter folded into the weights it changes: in fp32, then cast once."""

from __future__ import annotations

from pathlib import Path

from multitask_api.bundle import Adapter
from multitask_trainer.bundling import cast_model
from multitask_trainer.errors import StageError
from multitask_trainer.precision import Precision


def merge_adapter(base: Path, adapter_file: Path, adapter: Adapter, target: Path, precision: Precision) -> None:
    """Write the model W + scaling · B A to ``target``. ``base`` is a transformers folder in fp32.

    Raises `StageError` if the adapter changes a weight that the base does not have.
    """
    import torch
    from safetensors.torch import load_file, save_file

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    delta = {name: value.float() for name, value in load_file(adapter_file).items()}
    left = {name.rpartition(".")[0] for name in delta}
    cast_model(base, target, precision)
    for path in sorted(base.glob("*.safetensors")):
        weights = load_file(path)
        here = sorted(layer for layer in left if f"{layer}.weight" in weights)
        for layer in here:
            change = adapter.scaling * (delta[f"{layer}.B"] @ delta[f"{layer}.A"])
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"].float() + change
        if here:
            (target / path.name).unlink()  # it may be a link to the base's own file
            cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
            save_file(cast, target / path.name, metadata={"format": "pt"})
        left -= set(here)
    if left:
        raise StageError(f"the adapter changes {sorted(left)[0]!r}, which the base model does not have")
