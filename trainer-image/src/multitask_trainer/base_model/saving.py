"""Writes a model that is served: a transformers folder beside the files of its base, in the final dtype."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from multitask_trainer.base_model.loading import Precision, torch_dtype
from multitask_trainer.storage.files import drop_library_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_served_model(model: PreTrainedModel, base: Path, target: Path, precision: Precision) -> None:
    """Replace the folder ``target`` by ``model``, cast in place to ``precision``, with the tokenizer of ``base``.

    The library saves it, so that the names of a composite checkpoint, tied weights and the index of several files are
    as it reads them.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in base.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copy2(path, target / path.name)
    model.config.get_text_config().use_cache = True
    model.to(torch_dtype(precision))  # type: ignore[arg-type]
    model.save_pretrained(target)
    drop_library_versions(target)
