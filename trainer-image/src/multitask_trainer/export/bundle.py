"""Builds a bundle folder (``multitask_api.bundle``) from the servable weights that training leaves.

Servable weights are a folder with either ``model/`` (a whole transformers folder in its final dtype) or
``adapter.safetensors`` and ``adapter.json`` (a low-rank delta over the base). Files are hard-linked where the file
system allows it, so a bundle of weights that are on the disk already takes next to no room.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multitask_api.bundle import BASE_MODEL, Adapter, Bundle, PromptFormat, ServedModel, ServedTask
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.model.backbone import MASKED
from multitask_serving.engine.prompt.compiling import compile_prompt
from multitask_serving.engine.prompt.encoding import compile_labels
from multitask_trainer.base_model.loading import Precision, load_tokenizer, read_forward_path, read_prompt_format
from multitask_trainer.errors import StageError
from multitask_trainer.export.weights import DTYPE_NAMES, cast_model, link_file, link_tree, weight_bytes
from multitask_trainer.storage.bundle_digest import bundle_digest
from multitask_trainer.storage.files import file_entries, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class ServableWeights:
    """Weights as they are served: ``folder`` has ``model/``, or ``adapter.safetensors`` and ``adapter.json``.

    ``name`` becomes the model's or the adapter's name in the bundle, where no other has it.
    """

    name: str
    folder: Path

    @property
    def is_adapter(self) -> bool:
        """Whether it is a delta over the base, not a whole model. Raises `StageError` if it is neither."""
        if (self.folder / "adapter.safetensors").exists():
            return True
        if (self.folder / "model" / "config.json").exists():
            return False
        raise StageError(
            f"{self.folder}: neither model/ nor adapter.safetensors; another version of the stage made this folder,"
            " delete it to have it made again"
        )


@dataclass(frozen=True)
class TaskBinding:
    """A task and the name of the weights that answer it; ``served_by`` is its group or ``baseline``."""

    definition: TaskDefinition
    servable: str
    served_by: str = ""


def assemble_bundle(
    folder: Path,
    *,
    base: Path,
    servables: Sequence[ServableWeights],
    tasks: Sequence[TaskBinding],
    precision: Precision,
    max_length: int,
    chat_template: bool = False,
    revision: str,
) -> Bundle:
    """Write ``bundle.json``, ``models/`` and ``adapters/`` into ``folder`` and return the bundle.

    ``base`` is the base artifact's ``model/`` folder: its tokenizer encodes every prompt, and its weights, cast to
    ``precision``, carry the adapters (they are in the bundle once, and only if there is an adapter). Whole models are
    taken as they are. Raises `KeyError` for a task whose weights are missing.
    """
    placed = place_servables(folder, base, servables, precision)
    tokenizer, prompt_format = load_tokenizer(base), read_prompt_format(base)
    served = tuple(
        compile_task(
            binding,
            tokenizer,
            prompt_format,
            model=placed.placements[binding.servable].model,
            adapter=placed.placements[binding.servable].adapter,
            max_length=max_length,
            chat_template=chat_template,
        )
        for binding in tasks
    )
    bundle = Bundle(revision=revision, models=placed.models, tasks=served)
    write_bundle(folder, bundle)
    return bundle


@dataclass(frozen=True)
class Placement:
    """What servable weights became in a bundle: a model of their own, or an adapter of the base."""

    model: str
    adapter: str | None = None


@dataclass(frozen=True)
class PlacedModels:
    """The models in a bundle folder, and the placement of each `ServableWeights` by its name."""

    models: tuple[ServedModel, ...]
    placements: Mapping[str, Placement]


def place_servables(
    folder: Path, base: Path, servables: Sequence[ServableWeights], precision: Precision
) -> PlacedModels:
    """Put ``models/`` and ``adapters/`` into ``folder``; see `assemble_bundle`."""
    folder.mkdir(parents=True, exist_ok=True)
    adapters = [servable for servable in servables if servable.is_adapter]
    whole = [servable for servable in servables if not servable.is_adapter]
    models = [_whole_model(folder, servable, precision) for servable in whole]
    if adapters:
        models.insert(0, _adapted_base(folder, base, adapters, precision))
    models = [with_forward_path(model, base) for model in models]
    placements = {servable.name: Placement(servable.name) for servable in whole}
    placements |= {servable.name: Placement(BASE_MODEL, servable.name) for servable in adapters}
    return PlacedModels(tuple(models), placements)


def with_forward_path(model: ServedModel, base: Path) -> ServedModel:
    """``model``, which was made from the base in ``base``, with the way in which that is run."""
    path = read_forward_path(base)
    return model if path == MASKED else model.model_copy(update={"forward_path": path})


def bundle_revision(folder: Path, models: Sequence[ServedModel], tasks: Sequence[ServedTask]) -> str:
    """The digest of everything that decides the answers: the files below ``folder`` and the tasks' descriptions."""
    files = {name: entry.sha256 for name, entry in file_entries(folder).items()}
    return bundle_digest(files, [model.to_json() for model in models], [task.to_json() for task in tasks])


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Replace ``bundle.json`` in ``folder``."""
    write_atomically(folder / "bundle.json", bundle.model_dump_json(by_alias=True, exclude_none=True, indent=1))


def compile_task(
    binding: TaskBinding,
    tokenizer: PreTrainedTokenizerFast,
    prompt_format: PromptFormat,
    *,
    model: str,
    adapter: str | None,
    max_length: int,
    chat_template: bool,
) -> ServedTask:
    """A task's prompt and labels as token ids, with the model and adapter that answer it."""
    task = binding.definition
    pieces, prefix = compile_prompt(task.prompt, tokenizer, prompt_format, chat=chat_template)
    if tokenizer.eos_token_id is None:
        raise StageError("the base model's tokenizer has no end-of-sequence token; use another base")
    return ServedTask(
        name=task.name,
        type=task.type,
        model=model,
        adapter=adapter,
        pieces=pieces,
        bos=prefix,
        eos=int(tokenizer.eos_token_id),
        max_length=max_length,
        labels=compile_labels(task.labels, tokenizer, pieces) if task.type == "Classification" else (),
        generation=task.generation,
        served_by=binding.served_by,
    )


def _whole_model(folder: Path, servable: ServableWeights, precision: Precision) -> ServedModel:
    path = f"models/{servable.name}"
    link_tree(servable.folder / "model", folder / path)
    return ServedModel(name=servable.name, path=path, dtype=DTYPE_NAMES[precision], bytes=weight_bytes(folder / path))


def _adapted_base(folder: Path, base: Path, servables: Sequence[ServableWeights], precision: Precision) -> ServedModel:
    path = f"models/{BASE_MODEL}"
    cast_model(base, folder / path, precision)
    adapters = []
    for servable in servables:
        adapter_path = f"adapters/{BASE_MODEL}/{servable.name}"
        link_file(servable.folder / "adapter.safetensors", folder / adapter_path / "adapter.safetensors")
        settings = json.loads((servable.folder / "adapter.json").read_text("utf-8"))
        adapters.append(
            Adapter(name=servable.name, path=adapter_path, rank=settings["rank"], scaling=settings["scaling"])
        )
    size = weight_bytes(folder / path) + sum(weight_bytes(folder / adapter.path) for adapter in adapters)
    return ServedModel(name=BASE_MODEL, path=path, dtype=DTYPE_NAMES[precision], adapters=tuple(adapters), bytes=size)
