"""What is known of a base in a folder of this machine before it is loaded, and without torch: is it all there?"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multitask_api.errors import Problem
from multitask_api.resource.sources import BaseModelSource
from multitask_api.uris import is_folder, scheme_of
from multitask_trainer.base_model.gguf_file import gguf_problem
from multitask_trainer.data.listing import files_below
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import DataError

_HUB_NAME = re.compile(r"\w[\w-]*/\w[\w.-]*")
_INDEX = ".index.json"
_WEIGHTS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
"""In the order in which transformers looks for them: it reads the first alone."""
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "*.tiktoken"),
)
"""Files that transformers can make a tokenizer from."""
_LFS = b"version https://git-lfs"


def base_problem(base: BaseModelSource, locations: DataLocations) -> Problem | None:
    """What is wrong with the files of ``spec.baseModel``; None if nothing is, or if the base is not on this machine."""
    if not is_folder(base.uri):
        return None
    field, message = "uri", None
    try:
        folder = locations.local_path(base.uri)
        if folder is None:
            return None
        if scheme_of(base.uri) is None and _HUB_NAME.fullmatch(base.uri) and not folder.parent.exists():
            message = f"no such folder ({folder.absolute()}); for a model of the hub write hf://{base.uri}"
        elif folder.is_file():
            message = "a file; give the folder that holds it"
        else:
            files_below(base.uri, locations, only=base.gguf_file)
            message = next(_folder_problems(folder), None) if base.gguf_file is None else None
        if base.gguf_file is not None and message is None:
            field, message = "ggufFile", gguf_problem(folder / base.gguf_file)
    except (DataError, OSError) as error:
        message = str(error).removeprefix(f"{base.uri}: ")
    return None if message is None else Problem(f"spec.baseModel.{field}", f"{base.uri}: {message}")


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a base. Raises DataError if the folder has none."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"its config.json is not JSON ({error}); give a transformers folder") from error
    if not isinstance(config, dict):
        raise DataError("its config.json is no JSON object; give a transformers folder")
    return config


def _folder_problems(folder: Path) -> Iterator[str]:
    """The first of what is wrong with a folder in the transformers format, which exists."""
    if not (folder / "config.json").is_file():
        yield _no_config(folder)
    read_config(folder)
    yield from _weight_problems(folder)
    if not any(True for pattern in _TOKENIZERS for _ in folder.glob(pattern)):
        yield (
            "there is no tokenizer in this folder; add the tokenizer.json that"
            " AutoTokenizer.from_pretrained(…).save_pretrained(…) writes"
        )


def _no_config(folder: Path) -> str:
    packed = sorted(path.name for path in folder.glob("*.gguf"))
    if packed:
        return f"there is no config.json, but a model in GGUF; add ggufFile: {' or '.join(packed[:3])}"
    if (folder / "adapter_config.json").exists():
        return (
            "this is an adapter (adapter_config.json), not a whole model; merge it into its base and give the merged"
            " model"
        )
    return f"no config.json there ({folder.absolute()}); give a transformers folder"


def _weight_problems(folder: Path) -> Iterator[str]:
    first = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        yield "there are no weights beside config.json; give the folder that has the model's safetensors files too"
        return
    for path in _parts(first) if first.name.endswith(_INDEX) else (first,):
        if not path.is_file():
            yield f"{path.name} is missing, which {first.name} names; copy all files of the model"
        elif (reason := _damage(path)) is not None:
            yield f"{path.name} is {reason}"


def _parts(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{index.name} is damaged ({error}); copy it again") from error
    return [index.parent / str(name) for name in names]


def _damage(path: Path) -> str | None:
    """Why a file of weights cannot be read: of safetensors, header and size have to agree."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(len(_LFS))
        if begin == _LFS:
            return "a Git LFS pointer, and not the weights; run git lfs pull where it was cloned"
        if path.suffix != ".safetensors":
            return None
        try:
            (length,) = struct.unpack("<Q", begin[:8])
            file.seek(8)
            header = json.loads(file.read(length)) if length <= size else {}
            end = max((each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, AttributeError, TypeError, struct.error):
            length, end = 0, 0
    if length and 8 + length + end == size:
        return None
    return f"cut short or damaged ({size:,} bytes); copy it again, and compare its size with the original's"
