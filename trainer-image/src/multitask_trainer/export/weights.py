"""Weights of a bundle as files: linked or copied, and cast to the served precision."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from multitask_trainer.base_model.loading import Precision, torch_dtype
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


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights below ``folder``: its safetensors files, not the tokenizer."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
