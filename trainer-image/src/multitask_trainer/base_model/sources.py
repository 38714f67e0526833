"""A base model from its address: made here (``builtin://``), from the hub, or from a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.uris import scheme_of
from multitask_serving.engine.prompt.template import parse_template
from multitask_trainer.base_model.builtin import make_model, make_tokenizer, size_of
from multitask_trainer.base_model.checkpoint import read_checkpoint
from multitask_trainer.base_model.gguf_file import read_gguf
from multitask_trainer.data.hub import download_model_file
from multitask_trainer.data.listing import files_below
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.rows import Row
from multitask_trainer.errors import ArtifactError, StageError
from multitask_trainer.storage.uris import storage_errors

_BPE_CHARACTERS = 20_000_000
"""As much of the corpus as the builtin tokenizer is made from."""


@dataclass(frozen=True)
class BaseModelSource:
    """``spec.baseModel`` and what is needed to follow it."""

    uri: str
    revision: str | None
    seed: int
    locations: DataLocations
    gguf_file: str | None = None


def make_base(
    source: BaseModelSource,
    folder: Path,
    *,
    tasks: Sequence[TaskDefinition],
    rows: Mapping[str, Iterable[Row]],
    corpus: Sequence[Iterable[str]],
) -> None:
    """Write the base to ``folder``: a transformers folder in fp32, tokenizer included.

    Raises `StageError` for a base that cannot be used, `ArtifactError` or `HubUnreachable` (retryable) for one
    that cannot be reached.
    """
    scheme, separator, rest = source.uri.partition("://")
    if scheme == "builtin":
        size = size_of(rest)
        tokenizer = make_tokenizer(_tokenizer_texts(tasks, rows, corpus), size.vocabulary)
        model = make_model(size, tokenizer, source.seed)
    elif source.gguf_file is not None:
        name = f"{source.uri.rstrip('/')}/{source.gguf_file}"
        model, tokenizer = read_gguf(_gguf_path(source, source.gguf_file, folder.with_name("download")), name)
    elif scheme == "hf":
        model, tokenizer = read_checkpoint(rest, source.uri, revision=source.revision)
    else:
        local = source.locations.local_path(source.uri)
        if local is None:
            local = _download(source.uri, folder.with_name("download"))
        if not local.is_dir():
            raise StageError(
                f"baseModel.uri: {source.uri}: no such folder ({local.absolute()}); give the folder that holds the "
                "model's config.json" + ("" if separator else ", or hf://ORG/NAME for a model of the hub")
            )
        model, tokenizer = read_checkpoint(str(local), source.uri, local_files_only=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _gguf_path(source: BaseModelSource, file: str, download: Path) -> Path:
    """The GGUF file on this machine, fetched to ``download`` if it is elsewhere."""
    if scheme_of(source.uri) == "hf":
        return download_model_file(source.uri.removeprefix("hf://").strip("/"), source.revision, file)
    found = files_below(source.uri, source.locations, only=file)[file]
    local = source.locations.local_path(source.uri)
    if local is not None:
        return local / file
    target = download / Path(file).name
    download.mkdir(parents=True, exist_ok=True)
    with storage_errors(source.uri), found.open_raw() as content, target.open("wb") as copy:
        shutil.copyfileobj(content, copy, 1 << 24)
    return target


def _download(uri: str, folder: Path) -> Path:
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(uri)
        with storage_errors(uri):
            fs.get(path.rstrip("/") + "/", str(folder) + "/", recursive=True)
    except ImportError as error:
        raise StageError(f"baseModel.uri: {uri}: {error}; install it to read this kind of address") from error
    except FileNotFoundError as error:
        raise StageError(f"baseModel.uri: {uri}: no such folder; check the address") from error
    except (ArtifactError, StageError) as error:
        raise type(error)(f"baseModel.uri: {error}") from error
    return folder


def _tokenizer_texts(
    tasks: Sequence[TaskDefinition], rows: Mapping[str, Iterable[Row]], corpus: Sequence[Iterable[str]]
) -> Iterator[str]:
    """What the builtin tokenizer is made from: every task's template once, its rows and labels, some of the corpus."""
    for task in tasks:
        yield from (part for part in parse_template(task.prompt) if isinstance(part, str))
        yield from task.labels
        for row in rows[task.name]:
            yield from row.fields.values()
            # An answer follows a space, as it does in training.
            yield f" {row.answer}"
    for source in corpus:
        left = _BPE_CHARACTERS // len(corpus)
        for text in source:
            if left <= 0:
                break
            yield text[:left]
            left -= len(text)
