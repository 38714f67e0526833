"""Writes an export: ``FOLDER/<digest>/`` with ``adapters/<name>/``, ``tasks.json``, and what the target wants besides.

The digest is of the revision, the target and the base's name. Engines keep adapters that they have loaded by path, so
what is at one path must never change: another revision is written to another path, and of the same one only files that
are missing or damaged are written again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from multitask_api.bundle import ServedTask
from multitask_api.errors import UserError
from multitask_api.stages.digests import digest
from multitask_serving.engine.prompt.template import answer_separator
from multitask_trainer.adapter_export import engines
from multitask_trainer.adapter_export.peft_folder import VLLM_RANKS, padded_rank, write_peft_folder
from multitask_trainer.adapter_export.source import Source
from multitask_trainer.storage.files import file_entries, matches_entry, sync_tree, temporary_sibling, write_atomically

Target = Literal["peft", "vllm", "triton-vllm"]

FORMAT = 1
"""Raised when the same revision gives other files than before, for they need another path."""


def write_export(source: Source, target: Target, folder: Path, base: str | None) -> Path:
    """Write ``source`` below ``folder`` for ``target``; the folder of this revision, which may have been there.

    Other files in it stay.

    ``base`` is the name or path under which the target loads the base; None: the folder of the bundle's own base.
    Raises `UserError` for a rank that the target does not take, and for a folder that cannot be written.
    """
    base_name = base or str(source.base)
    name = digest({"revision": source.revision, "target": target, "base": base_name, "format": FORMAT})
    final = folder.resolve() / name
    rank = max(adapter.rank for adapter in source.adapters)
    if target != "peft":
        rank = padded_rank(rank, VLLM_RANKS)
    temporary = temporary_sibling(final)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(source, target, temporary, final, base_name, rank)
        sync_tree(temporary)
        if final.is_dir():
            _repair(final, temporary)
        else:
            temporary.rename(final)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; name another folder with --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _repair(folder: Path, written: Path) -> None:
    """Move to ``folder`` those files of ``written`` that are missing or other there."""
    for name, entry in file_entries(written).items():
        if not matches_entry(folder / name, entry):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (written / name).replace(folder / name)


def _write(source: Source, target: Target, folder: Path, final: Path, base: str, rank: int) -> None:
    """``folder`` becomes ``final``, which is the path in the files."""
    for adapter in source.adapters:
        own = adapter.rank if target == "peft" else padded_rank(adapter.rank, VLLM_RANKS)
        write_peft_folder(folder / "adapters" / adapter.name, adapter.weights, own, base)
    paths = {adapter.name: final / "adapters" / adapter.name for adapter in source.adapters}
    tasks = {task.name: describe_task(adapter.name, task) for adapter in source.adapters for task in adapter.tasks}
    _write_json(folder / "tasks.json", {"revision": source.revision, "base": base, "tasks": tasks})
    if target == "vllm":
        _write_json(folder / "lora-modules.json", engines.lora_modules(paths, base))
        write_atomically(folder / "serve.sh", engines.vllm_command(paths, base, rank))
    elif target == "triton-vllm":
        model = folder / "model_repository" / source.model
        write_atomically(model / "config.pbtxt", engines.CONFIG_PBTXT)
        _write_json(model / "1" / "model.json", engines.triton_model(base, rank, len(paths)))
        _write_json(model / "1" / "multi_lora.json", engines.multi_lora(paths))


def describe_task(adapter: str, task: ServedTask) -> dict[str, object]:
    """What a caller of another engine has to know of a task.

    ``prompt`` is the text around the fields, in which ``{name}`` stands for a field and ``{{`` for a brace. An answer
    begins with ``answerPrefix``, also a label.
    """
    described: dict[str, object] = {
        "adapter": adapter,
        "type": task.type,
        "prompt": _prompt(task),
        "answerPrefix": answer_separator(task.pieces),
    }
    if task.labels:
        described["labels"] = [label.label for label in task.labels]
    if task.generation is not None:
        described |= {"maxNewTokens": task.generation.max_new_tokens, "stop": list(task.generation.stop)}
    return described | {"bos": list(task.bos), "eos": task.eos, "maxLength": task.max_length}


def _prompt(task: ServedTask) -> str:
    parts = []
    for piece in task.pieces:
        if piece.field is not None:
            parts.append(f"{piece.lead or ''}{{{piece.field}}}")
        else:
            parts.append((piece.literal or "").replace("{", "{{").replace("}", "}}"))
    return "".join(parts)


def _write_json(path: Path, value: Mapping[str, object] | list[dict[str, str]]) -> None:
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
