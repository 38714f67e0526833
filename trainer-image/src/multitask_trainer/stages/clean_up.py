"""clean-up: removes what the runs of one model have written below its storage; runs when the model is deleted.

What they have written is known by its manifest, which says for which model a result was made, and by its place:
scratch and checkpoints, and the files of uploads that never became a result, lie in folders of the model's own.
Whatever else is there stays.
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
from multitask_trainer.reporter import Reporter
from multitask_trainer.storage import content_prefix, local_path, reaching, sizes

_AT_ONCE = 100
"""Manifests that are read together."""
_CACHE = "resolve-cache.json"


def report(order: CleanUpOrder, reporter: Reporter) -> dict[str, object]:
    """What a clean-up pod writes into its ConfigMap, when it has removed what it was told to."""
    cleaned = clean_up(order.storage, order.model, reporter)
    sys.stdout.write(f"{order.storage}: removed {cleaned.files} files, {cleaned.left} are not of {order.model}\n")
    return {"data": {CLEAN_UP_RESULT_KEY: cleaned.model_dump_json(by_alias=True)}}


def clean_up(storage: str, model: str, reporter: Reporter) -> CleanUpResult:
    """Remove everything of ``model`` below the address ``storage``; what an attempt before has removed is fine.

    Raises `StageError` where it may not, and `ArtifactError` where the store does not answer.
    """
    root = storage.rstrip("/")
    with reaching(root):
        stages, work = _listing(root, "stages"), _listing(root, f"work/{model_folder(model)}")
        results = list(_results(root, stages, model))
        uploads = [name for name in stages if _is_upload(name, model)]
        # A manifest goes after the files that it names: it alone tells whose they are, and is no result without them.
        names = list(dict.fromkeys((*work, *uploads, *(name for files in results for name in files))))
        there = stages | work
        left = len(stages.keys() - set(names))
        names += _cache(root) if not left else ()
        _remove(root, names, reporter)
        _remove_empty_folders(root, model)
    return CleanUpResult(
        results=len(results), files=len(names), bytes=sum(there.get(name, 0) for name in names), left=left
    )


def _results(root: str, stages: Mapping[str, int], model: str) -> Iterator[list[str]]:
    """The files of each result of ``model``, only such as its manifest names, and the manifest last."""
    for place, manifest in _manifests(root, stages):
        if manifest.model != model or not _is_its_place(place, manifest):
            continue
        content = f"{place}/{manifest.folder}" if manifest.folder else place
        named = (f"{content}/{name}" for name in manifest.files)
        yield [*(name for name in named if name in stages), f"{place}/{MANIFEST}"]


def _manifests(root: str, stages: Mapping[str, int]) -> Iterator[tuple[str, Manifest]]:
    """(folder, manifest) of every result, and of those that a writer had not yet renamed into place."""
    fs, path = fsspec.url_to_fs(root)
    every = [name for name in stages if posixpath.basename(name) == MANIFEST]
    for start in range(0, len(every), _AT_ONCE):
        names = every[start : start + _AT_ONCE]
        texts = fs.cat([f"{path}/{name}" for name in names], on_error="omit")
        for name in names:
            with suppress(KeyError, ValidationError):  # gone by now, or nobody's that we know
                yield posixpath.dirname(name), Manifest.model_validate_json(texts[f"{path}/{name}"])


def _is_its_place(place: str, manifest: Manifest) -> bool:
    folder, name = posixpath.split(place)
    is_named = name == manifest.digest or name.startswith(f".{manifest.digest}.")
    return folder == f"stages/{manifest.stage}" and is_named


def _is_upload(name: str, model: str) -> bool:
    return any(part.startswith(content_prefix(model)) for part in name.split("/")[:-1])


def _listing(root: str, below: str) -> dict[str, int]:
    """Name relative to ``root`` → bytes, of every file below; links are files and lead nowhere."""
    local = local_path(root)
    if local is None:
        with suppress(FileNotFoundError):  # of the bucket: folders need not be there
            return {f"{below}/{name}": size for name, size in sizes(f"{root}/{below}").items()}
        return {}
    return {path.relative_to(local).as_posix(): path.lstat().st_size for path in _files(local, below)}


def _files(root: Path, below: str) -> Iterator[Path]:
    if not _is_inside(root, below):
        return
    for folder, below_it, names in os.walk(root / below, onerror=_raise):
        links = [name for name in below_it if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in (*names, *links))


def _is_inside(root: Path, below: str) -> bool:
    """Whether the folder is there and no link on the way leads out of ``root``."""
    return (root / below).is_dir() and (root / below).resolve() == root.resolve() / below


def _cache(root: str) -> list[str]:
    """The hashes of data files, which all models of an address share, and what was left of writing them."""
    local = local_path(root)
    if local is None or not local.is_dir():
        return []
    found = (*local.glob(_CACHE), *local.glob(f".{_CACHE}.*"))
    return [path.name for path in found if path.is_file()]


def _remove(root: str, names: Sequence[str], reporter: Reporter) -> None:
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


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
