"""Program ``clean-up``: removes what the runs of one model have written to its storage, when the model is deleted.
Program ``gc``: removes that of it which nothing uses any more.

A result is recognised by its manifest, which names the model it was made for. Work folders, checkpoints and incomplete
uploads are recognised by their path: these folders belong to one model. Other files stay.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import fsspec
from pydantic import ValidationError

from multitask_api.cluster import (
    CLEAN_UP_RESULT_KEY,
    GC_RESULT_KEY,
    MAX_LISTED_RESULTS,
    CleanUpOrder,
    CleanUpResult,
    GarbageOrder,
    GarbageResult,
    UnusedResult,
    model_folder,
)
from multitask_api.stage_io.manifest import MANIFEST, ROWS_FOLDER, Manifest
from multitask_api.stages import artifact_filename
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


def report_garbage(order: GarbageOrder, reporter: ProgressReporter) -> dict[str, object]:
    """Remove what is not used; the change to the ConfigMap that reports it."""
    removed = collect(order, reporter)
    verb = "would remove" if order.dry_run else "removed"
    for result in removed.results:
        sys.stdout.write(f"{verb} {result.name}, {result.bytes} bytes\n")
    sys.stdout.write(f"{order.storage}: {verb} {removed.count} results, {removed.files} files\n")
    return {"data": {GC_RESULT_KEY: removed.model_dump_json(by_alias=True)}}


def collect(order: GarbageOrder, reporter: ProgressReporter) -> GarbageResult:
    """Remove what ``order.model`` wrote and ``order`` does not keep; with ``dry_run`` only report it.

    The order is given while nothing of the model runs. Raises as `clean_up`.
    """
    root, own_work = order.storage.rstrip("/"), f"work/{model_folder(order.model)}"
    with storage_errors(root):
        stages, work = _listing(root, "stages"), _listing(root, own_work)
        manifests = list(_manifests(root, stages))
        kept: set[str] = set()
        unused: list[tuple[str, list[str]]] = []
        for folder, manifest, files in _folders(manifests, stages, order.model):
            if _is_kept(order, folder, manifest):
                kept.update(files)
            else:
                unused.append((folder, files))
        uploads = _abandoned_uploads(manifests, stages, order.model)
        scratch = [name for name in work if not _is_open(order, name.removeprefix(f"{own_work}/"))]
        sizes = stages | work
        names = list(dict.fromkeys((*scratch, *uploads, *(name for _, files in unused for name in files))))
        if not order.dry_run:
            _remove(root, names, reporter)
            _remove_empty_folders(root, order.model)
    results = [UnusedResult(name=folder.removeprefix("stages/"), bytes=_bytes(each, sizes)) for folder, each in unused]
    results.sort(key=lambda result: (-result.bytes, result.name))
    return GarbageResult(
        dry_run=order.dry_run,
        results=tuple(results[:MAX_LISTED_RESULTS]),
        count=len(results),
        files=len(names),
        bytes=_bytes(names, sizes),
        left=len(stages.keys() - kept - set(names)),
    )


def _is_kept(order: GarbageOrder, folder: str, manifest: Manifest) -> bool:
    """Whether a result is used; the temporary sibling of its folder, which a killed writer left, is not."""
    is_used = f"{manifest.stage}/{manifest.digest}" in order.keep or manifest.stage in order.keep_stages
    return is_used and posixpath.basename(folder) == manifest.digest


def _abandoned_uploads(
    manifests: Sequence[tuple[str, Manifest]], stages: Mapping[str, int], model: str
) -> Iterator[str]:
    """Files of ``model``'s uploads that no manifest names: their writer was killed, or another one was quicker. What
    lies beside a manifest that could not be read may be named by it, and is none of these."""
    named = {f"{folder}/{manifest.folder}" for folder, manifest in manifests if manifest.folder}
    every = {posixpath.dirname(name) for name in stages if posixpath.basename(name) == MANIFEST}
    unread = every - {folder for folder, _ in manifests}
    for name in stages:
        parts = name.split("/")
        folders = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if _is_upload(name, model) and folders.isdisjoint(named | unread):
            yield name


def _is_open(order: GarbageOrder, name: str) -> bool:
    """Whether a file of the model's work folder is of use: rows of a result that stays, and what a stage that is still
    to be run has there, its checkpoint for example."""
    folder, _, below = name.partition("/")
    if folder == ROWS_FOLDER:
        folder, _, below = below.partition("/")
        wanted = order.keep
    else:
        wanted = order.unfinished
    names = {artifact_filename((stage, digest)) for stage, _, digest in (result.rpartition("/") for result in wanted)}
    open_stages = tuple(artifact_filename((stage, "")) for stage in order.keep_stages)
    return bool(below) and (folder in names or folder.startswith(open_stages))


def _bytes(names: Sequence[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes.get(name, 0) for name in names)


def _results(root: str, stages: Mapping[str, int], model: str) -> Iterator[list[str]]:
    """The files of each result of ``model``: those that its manifest lists, and the manifest last."""
    return (files for _, _, files in _folders(_manifests(root, stages), stages, model))


def _folders(
    manifests: Iterable[tuple[str, Manifest]], stages: Mapping[str, int], model: str
) -> Iterator[tuple[str, Manifest, list[str]]]:
    """(folder, manifest, files) of each result of ``model``."""
    for folder, manifest in manifests:
        if manifest.model != model or not _is_at_its_path(folder, manifest):
            continue
        content = f"{folder}/{manifest.folder}" if manifest.folder else folder
        listed = (f"{content}/{name}" for name in manifest.files)
        yield folder, manifest, [*(name for name in listed if name in stages), f"{folder}/{MANIFEST}"]


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
