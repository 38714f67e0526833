"""Builds a bundle folder (``multitask_api.bundle``) from the served forms that training leaves.

A served form is a folder with either ``model/`` (a whole transformers folder in its final dtype) or
``adapter.safetensors`` and ``adapter.json`` (a low-rank delta over the base). Files are hard-linked where the file
system allows it, so a bundle of forms that are on disk already costs next to nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from multitask_api.bundle import BASE_MODEL, Adapter, Bundle, ServedModel, ServedTask
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.stages.digests import digest
from multitask_serving.engine.prompt.chat import compile_chat_pieces
from multitask_serving.engine.prompt.encoding import bos_ids, compile_labels, compile_pieces
from multitask_trainer.errors import StageError
from multitask_trainer.precision import Precision
from multitask_trainer.storage import content_digest, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_DTYPES: dict[str, Literal["float32", "bfloat16"]] = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Part:
    """One served form: ``form`` is the folder that holds ``model/`` or ``adapter.safetensors`` and ``adapter.json``.

    ``name`` becomes the model's or the adapter's name in the bundle; parts of one bundle have different names.
    """

    name: str
    form: Path

    @property
    def is_adapter(self) -> bool:
        """The form is a delta over the base, not a whole model. Raises `StageError` if it is neither."""
        if (self.form / "adapter.safetensors").exists():
            return True
        if (self.form / "model" / "config.json").exists():
            return False
        raise StageError(f"{self.form}: neither model/ nor adapter.safetensors; the stage that made it is not of now")


@dataclass(frozen=True)
class TaskUse:
    """A task and the part that answers it; ``served_by`` is its group or ``baseline``."""

    definition: TaskDefinition
    part: str
    served_by: str = ""


def assemble(
    folder: Path,
    *,
    base: Path,
    parts: Sequence[Part],
    tasks: Sequence[TaskUse],
    precision: Precision,
    max_length: int,
    chat_template: bool = False,
    revision: str,
) -> Bundle:
    """Write ``bundle.json``, ``models/`` and ``adapters/`` into ``folder`` and return the bundle.

    ``base`` is the base artifact's ``model/`` folder: its tokenizer encodes every prompt, and its weights, cast to
    ``precision``, carry the adapters (they are in the bundle once, and only if a part is an adapter). Forms that are
    whole models are taken as they are. A task whose part is missing is a `KeyError`.
    """
    placed = place_parts(folder, base, parts, precision)
    tokenizer = load_tokenizer(base)
    served = tuple(
        compile_task(
            use,
            tokenizer,
            model=placed.homes[use.part].model,
            adapter=placed.homes[use.part].adapter,
            max_length=max_length,
            chat_template=chat_template,
        )
        for use in tasks
    )
    bundle = Bundle(revision=revision, models=placed.models, tasks=served)
    write_bundle(folder, bundle)
    return bundle


@dataclass(frozen=True)
class Home:
    """Where a part went: a model of its own, or an adapter of the base."""

    model: str
    adapter: str | None = None


@dataclass(frozen=True)
class Placed:
    """The parts in a bundle folder. ``homes`` maps each part's name."""

    models: tuple[ServedModel, ...]
    homes: Mapping[str, Home]


def place_parts(folder: Path, base: Path, parts: Sequence[Part], precision: Precision) -> Placed:
    """Put ``models/`` and ``adapters/`` into ``folder``; see `assemble`."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [_whole_model(folder, part, precision) for part in parts if not part.is_adapter]
    adapters = [part for part in parts if part.is_adapter]
    if adapters:
        models.insert(0, _adapted_base(folder, base, adapters, precision))
    homes = {part.name: Home(BASE_MODEL, part.name) if part.is_adapter else Home(part.name) for part in parts}
    return Placed(tuple(models), homes)


def revision_of(folder: Path, models: Sequence[ServedModel], tasks: Sequence[ServedTask]) -> str:
    """The digest of everything that decides the answers: the files below ``folder`` and the tasks' descriptions."""
    described = [item.to_json() for item in (*models, *tasks)]
    return digest({"files": content_digest(folder, ["models", "adapters"]), "bundle": described})


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Replace ``bundle.json`` in ``folder``."""
    write_atomically(folder / "bundle.json", bundle.model_dump_json(by_alias=True, exclude_none=True, indent=1))


def compile_task(
    use: TaskUse,
    tokenizer: PreTrainedTokenizerFast,
    *,
    model: str,
    adapter: str | None,
    max_length: int,
    chat_template: bool,
) -> ServedTask:
    """A task's prompt and labels as token ids, and where it is answered."""
    task = use.definition
    pieces = compile_chat_pieces(task.prompt, tokenizer) if chat_template else compile_pieces(task.prompt, tokenizer)
    if tokenizer.eos_token_id is None:
        raise StageError("the base model's tokenizer has no end-of-sequence token; use another base")
    return ServedTask(
        name=task.name,
        type=task.type,
        model=model,
        adapter=adapter,
        pieces=pieces,
        bos=() if chat_template else bos_ids(tokenizer),
        eos=int(tokenizer.eos_token_id),
        max_length=max_length,
        labels=compile_labels(task.labels, tokenizer, pieces) if task.type == "Classification" else (),
        generation=task.generation,
        served_by=use.served_by,
    )


def load_tokenizer(model: Path) -> PreTrainedTokenizerFast:
    """The tokenizer beside a model's weights. Raises `StageError` if it has no ``tokenizer.json``."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise StageError(f"{model}: only tokenizers with a tokenizer.json are supported; use another base model")
    return tokenizer


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
    """A transformers folder with its floating weights in ``precision``; linked where they are already."""
    import torch
    from safetensors.torch import load_file, save_file

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
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
            write_atomically(destination, json.dumps(config | {"dtype": _DTYPES[precision]}, indent=1, sort_keys=True))
        else:
            link_file(path, destination)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights below ``folder``: its safetensors files, not the tokenizer."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _whole_model(folder: Path, part: Part, precision: Precision) -> ServedModel:
    path = f"models/{part.name}"
    link_tree(part.form / "model", folder / path)
    return ServedModel(name=part.name, path=path, dtype=_DTYPES[precision], bytes=weight_bytes(folder / path))


def _adapted_base(folder: Path, base: Path, parts: Sequence[Part], precision: Precision) -> ServedModel:
    path = f"models/{BASE_MODEL}"
    cast_model(base, folder / path, precision)
    adapters = []
    for part in parts:
        place = f"adapters/{BASE_MODEL}/{part.name}"
        link_file(part.form / "adapter.safetensors", folder / place / "adapter.safetensors")
        settings = json.loads((part.form / "adapter.json").read_text("utf-8"))
        adapters.append(Adapter(name=part.name, path=place, rank=settings["rank"], scaling=settings["scaling"]))
    size = weight_bytes(folder / path) + sum(weight_bytes(folder / adapter.path) for adapter in adapters)
    return ServedModel(name=BASE_MODEL, path=path, dtype=_DTYPES[precision], adapters=tuple(adapters), bytes=size)
