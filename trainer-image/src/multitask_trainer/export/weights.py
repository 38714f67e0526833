"""Weights of a bundle as files: linked or copied, cast to the served precision, with an adapter merged into them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from multitask_api.bundle import Adapter
from multitask_trainer.base_model.loading import Precision, torch_dtype
from multitask_trainer.errors import StageError
from multitask_trainer.storage.files import write_atomically

DTYPE_NAMES: Mapping[Precision, Literal["float32", "bfloat16"]] = {"fp32": "float32", "bf16": "bfloat16"}


def link_tree(source: Path, target: Path) -> None:
    """Put every file of ``source`` below ``target``: a hard link, or a copy on another file system."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link_file(path, target / path.relative_to(source))


def link_file(source: Path, target: Path) -> None:
    """Hard-link one file, or copy it where that cannot be done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def cast_model(source: Path, target: Path, precision: Precision) -> None:
    """Write the transformers folder ``source`` to ``target`` in ``precision``; files that have it are linked."""
    from safetensors.torch import load_file, save_file

    dtype = torch_dtype(precision)
    for path in sorted(item for item in source.rglob("*") if item.is_file()):
        destination = target / path.relative_to(source)
        if path.suffix == ".safetensors":
            weights = load_file(path)
            if all(value.dtype == dtype for value in weights.values() if value.is_floating_point()):
                link_file(path, destination)
                continue
            destination.parent.mkdir(parents=True, exist_ok=True)
            cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
            save_file(cast, destination, metadata={"format": "pt"})
        elif path.name == "config.json":
            config = json.loads(path.read_text("utf-8"))
            config.pop("torch_dtype", None)
            write_atomically(
                destination, json.dumps(config | {"dtype": DTYPE_NAMES[precision]}, indent=1, sort_keys=True)
            )
        else:
            link_file(path, destination)


def merge_adapter(base: Path, adapter_file: Path, adapter: Adapter, target: Path, precision: Precision) -> None:
    """Write the model W + scaling · B A to ``target``, summed in fp32 and cast once.

    ``base`` is a transformers folder in fp32. Raises `StageError` if the adapter changes a weight that the base lacks.
    """
    from safetensors.torch import load_file, save_file

    dtype = torch_dtype(precision)
    factors = {name: value.float() for name, value in load_file(adapter_file).items()}
    unmerged = {name.rpartition(".")[0] for name in factors}
    cast_model(base, target, precision)
    for path in sorted(base.glob("*.safetensors")):
        weights = load_file(path)
        layers = sorted(layer for layer in unmerged if f"{layer}.weight" in weights)
        for layer in layers:
            delta = adapter.scaling * (factors[f"{layer}.B"] @ factors[f"{layer}.A"])
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"].float() + delta
        if layers:
            (target / path.name).unlink()  # it may be a link to the base's own file
            cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
            save_file(cast, target / path.name, metadata={"format": "pt"})
        unmerged -= set(layers)
    if unmerged:
        raise StageError(f"the adapter changes {sorted(unmerged)[0]!r}, which the base model does not have")


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights below ``folder``: its safetensors files, not the tokenizer."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
