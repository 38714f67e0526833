"""Program ``clean-up``: removes what the runs of one model have written to its storage, when the model is deleted.

A result is recognised by its manifest, which names the model it was made for. Work folders, checkpoints and incomplete
uploads are recognised by their path: these folders belong to one model. Other files stay.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import fsspec
from pydantic import ValidationError

from multitask_api.cluster import CLEAN_UP_RESULT_KEY, CleanUpOrder, CleanUpResult, model_folder
from multitask_api.stage_io.manifest import MANIFEST, Manifest
from multitask_trainer.runtime.progress import ProgressReporter
from multitask_trainer.storage.artifacts import upload_prefix
from multitask_trainer.storage.uris import file_sizes, local_path, storage_errors

_MANIFESTS_AT_ONCE = 100
"""Manifests that are read together."""
_CACHE_NAME = "resolve-cache.json"


def report(order: CleanUpOrder, reporter: ProgressReporter) -> dict[str, object]:
    """Clean up; the change to the ConfigMap that reports it."""
    removed = clean_up(order.storage, order.model, reporter)
    sys.stdout.write(f"{order.storage}: removed {removed.files} files, {removed.left} are not of {order.model}\n")
    return {"data": {CLEAN_UP_RESULT_KEY: removed.model_dump_json(by_alias=True)}}


def clean_up(storage: str, model: str, reporter: ProgressReporter) -> CleanUpResult:
    """Remove all files of ``model`` below the address ``storage``; files that are gone already are no error.

    Raises `StageError` where it may not, and `ArtifactError` where the store does not answer.
    """
    root = storage.rstrip("/")
    with storage_errors(root):
        stages, work = _listing(root, "stages"), _listing(root, f"work/{model_folder(model)}")
        results = list(_results(root, stages, model))
        uploads = [name for name in stages if _is_upload(name, model)]
        # A manifest is removed after the files that it lists: they belong to the model only by the manifest.
        names = list(dict.fromkeys((*work, *uploads, *(name for files in results for name in files))))
        sizes = stages | work
        left = len(stages.keys() - set(names))
        names += _cache_files(root) if not left else ()
        _remove(root, names, reporter)
        _remove_empty_folders(root, model)
    return CleanUpResult(
        results=len(results), files=len(names), bytes=sum(sizes.get(name, 0) for name in names), left=left
    )


def _results(root: str, stages: Mapping[str, int], model: str) -> Iterator[list[str]]:
    """The files of each result of ``model``: those that its manifest lists, and the manifest last."""
    for folder, manifest in _manifests(root, stages):
        if manifest.model != model or not _is_at_its_path(folder, manifest):
            continue
        content = f"{folder}/{manifest.folder}" if manifest.folder else folder
        listed = (f"{content}/{name}" for name in manifest.files)
        yield [*(name for name in listed if name in stages), f"{folder}/{MANIFEST}"]


def _manifests(root: str, stages: Mapping[str, int]) -> Iterator[tuple[str, Manifest]]:
    """(folder, manifest) of every result, and of those that a writer had not yet renamed into place."""
    fs, path = fsspec.url_to_fs(root)
    every = [name for name in stages if posixpath.basename(name) == MANIFEST]
    for start in range(0, len(every), _MANIFESTS_AT_ONCE):
        names = every[start : start + _MANIFESTS_AT_ONCE]
        texts = fs.cat([f"{path}/{name}" for name in names], on_error="omit")
        for name in names:
            with suppress(KeyError, ValidationError):  # deleted meanwhile, or another program's file
                yield posixpath.dirname(name), Manifest.model_validate_json(texts[f"{path}/{name}"])


def _is_at_its_path(folder: str, manifest: Manifest) -> bool:
    """Whether a result's folder is that of its stage and digest, or the temporary sibling of that folder."""
    parent, name = posixpath.split(folder)
    is_named = name == manifest.digest or name.startswith(f".{manifest.digest}.")
    return parent == f"stages/{manifest.stage}" and is_named


def _is_upload(name: str, model: str) -> bool:
    return any(part.startswith(upload_prefix(model)) for part in name.split("/")[:-1])


def _listing(root: str, below: str) -> dict[str, int]:
    """Name relative to ``root`` → bytes, of every file below; links count as files and are not followed."""
    local = local_path(root)
    if local is None:
        with suppress(FileNotFoundError):  # the bucket: an object store needs no folders
            return {f"{below}/{name}": size for name, size in file_sizes(f"{root}/{below}").items()}
        return {}
    return {path.relative_to(local).as_posix(): path.lstat().st_size for path in _files(local, below)}


def _files(root: Path, below: str) -> Iterator[Path]:
    if not _is_inside(root, below):
        return
    for folder, below_it, names in os.walk(root / below, onerror=_raise_unless_missing):
        links = [name for name in below_it if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in (*names, *links))


def _is_inside(root: Path, below: str) -> bool:
    """Whether the folder exists and no link on the way leads out of ``root``."""
    return (root / below).is_dir() and (root / below).resolve() == root.resolve() / below


def _cache_files(root: str) -> list[str]:
    """The cache of data hashes, which all models of a storage address share, and its temporary files."""
    local = local_path(root)
    if local is None or not local.is_dir():
        return []
    paths = (*local.glob(_CACHE_NAME), *local.glob(f".{_CACHE_NAME}.*"))
    return [path.name for path in paths if path.is_file()]


def _remove(root: str, names: Sequence[str], reporter: ProgressReporter) -> None:
    fs, path = fsspec.url_to_fs(root)
    for number, name in enumerate(names, 1):
        with suppress(FileNotFoundError):
            fs.rm_file(f"{path}/{name}")  # one by one: lists of names are taken for patterns
        reporter.report("removing", step=number, total=len(names))


def _remove_empty_folders(root: str, model: str) -> None:
    """The folders that are empty now, up to the one that storage names; an object store has none."""
    local = local_path(root)
    if local is None:
        return
    for below in ("stages", f"work/{model_folder(model)}"):
        if _is_inside(local, below):
            for folder, _, _ in os.walk(local / below, topdown=False):
                _remove_if_empty(Path(folder))
    _remove_if_empty(local / "work")
    _remove_if_empty(local)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not empty, or where a claim is mounted
        folder.rmdir()


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
