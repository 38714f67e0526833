"""Artifact folders at any fsspec address: published whole or not at all, and checked by whoever reads them."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

import fsspec
from pydantic import ValidationError

from multitask_api.cluster import model_folder
from multitask_api.stage_io.manifest import MANIFEST, FileEntry, Manifest
from multitask_trainer.errors import ArtifactError
from multitask_trainer.storage.files import (
    file_entry,
    matches_entry,
    sync_path,
    sync_tree,
    temporary_sibling,
    unique_name,
    write_atomically,
)
from multitask_trainer.storage.uris import file_sizes, local_path, remove_tree, storage_errors, upload_file

_RENAME_ATTEMPTS = 5
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What some network file systems answer; several processes may then do the same work."""
_PARALLEL_COPIES = 4
"""A stream of an object store rarely fills the network; a disk gains nothing from more."""


def read_manifest(uri: str) -> Manifest | None:
    """The manifest of the artifact at ``uri``; None if there is none (the folder is then not a result).

    Raises `ArtifactError` for one that cannot be read.
    """
    fs, path = fsspec.url_to_fs(uri)
    try:
        with storage_errors(uri):
            text = fs.cat_file(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{uri}/{MANIFEST} cannot be read; delete the folder to redo it") from error


def find_result(uri: str) -> Manifest | None:
    """The manifest of a complete result; None without a manifest, or if a file it lists is missing or resized."""
    manifest = read_manifest(uri)
    if manifest is None:
        return None
    sizes = file_sizes(content_uri(uri, manifest))
    is_complete = all(sizes.get(name) == entry.bytes for name, entry in manifest.files.items())
    return manifest if is_complete else None


def fetch_artifact(uri: str, cache: Path) -> Path:
    """A local folder with the artifact's files: the folder itself if it is local, else a copy in ``cache``.

    Raises `ArtifactError` if there is no result, or if a file differs from its entry in the manifest.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise ArtifactError(f"{uri}: no {MANIFEST}; the stage that makes it has not finished")
    content = content_uri(uri, manifest)
    folder = local_path(content)
    if folder is None:
        folder = cache / manifest.stage / manifest.digest
        with locked(folder):  # the processes of one launch share the copy
            copy_files(content, folder, manifest.files)
    check_files(uri, folder, manifest, manifest.files)
    return folder


def copy_files(uri: str, folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Copy the files that are missing in ``folder``; a complete file of an earlier attempt is kept.

    What has arrived is for `check_files` to say: a file that is gone is left out. Raises as `storage_errors`.
    """
    fs, path = fsspec.url_to_fs(uri)

    def copy(name: str) -> None:
        file = folder / name
        if matches_entry(file, files[name]):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with storage_errors(uri):
                fs.get_file(f"{path}/{name}", str(file))
        except FileNotFoundError:
            file.unlink(missing_ok=True)

    with ThreadPoolExecutor(_PARALLEL_COPIES) as pool:
        for _ in pool.map(copy, files):
            pass


def check_files(uri: str, folder: Path, manifest: Manifest, files: Mapping[str, FileEntry]) -> None:
    """Raise `ArtifactError` for the first of the ``files`` that is not in ``folder`` as the manifest has it."""
    for name, expected in files.items():
        actual = file_entry(folder / name) if (folder / name).is_file() else None
        if actual != expected:
            problem = "is gone" if actual is None else _difference(actual, expected)
            raise ArtifactError(f"{uri}/{name} {problem}; delete the folder {uri} to have {manifest.stage} redone")


def content_uri(uri: str, manifest: Manifest) -> str:
    """Where the files of an artifact are."""
    return f"{uri}/{manifest.folder}" if manifest.folder else uri


def publish(folder: Path, uri: str, manifest: Manifest) -> Manifest:
    """Move the files of ``folder`` and their manifest to ``uri``, all at once; the manifest that is there afterwards.

    Of several writers one wins, with all of its files: the manifest that is returned may be another writer's. Files at
    ``uri`` that are no complete result are replaced. On a local disk everything is synced before it gets its name.
    """
    local = local_path(uri)
    if local is None:
        return _publish_remote(folder, uri, manifest)
    with storage_errors(uri):
        return _publish_local(folder, uri, local, manifest)


def upload_prefix(model: str | None) -> str:
    """How the folder of a writer's files begins in an object store: a clean-up knows by it whose an upload was."""
    return f"files-{model_folder(model or '')}_"


def _publish_local(folder: Path, uri: str, local: Path, manifest: Manifest) -> Manifest:
    local.parent.mkdir(parents=True, exist_ok=True)
    # Before the folder moves: if this writer is killed, a clean-up knows by the manifest whose folder it is.
    write_atomically(folder / MANIFEST, manifest.model_dump_json(by_alias=True, indent=1, exclude_none=True))
    staged = _stage_beside(local, folder)
    sync_tree(staged)
    for _ in range(_RENAME_ATTEMPTS):
        try:
            staged.rename(local)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            existing = find_result(uri)
            if existing is not None:
                shutil.rmtree(staged)
                return existing
            _remove_at_once(local)
        else:
            sync_path(local.parent)
            return manifest
    raise ArtifactError(f"{uri}: other writers come in between; end those that are not needed, then try again")


def _publish_remote(folder: Path, uri: str, manifest: Manifest) -> Manifest:
    """Object stores cannot rename: each writer's files get a folder of their own, and the one manifest names it."""
    manifest = manifest.model_copy(update={"folder": f"{upload_prefix(manifest.model)}{unique_name()}"})
    content = content_uri(uri, manifest)
    for name in manifest.files:
        upload_file(folder / name, f"{content}/{name}")
    existing = find_result(uri)
    if existing is not None:
        remove_tree(content)
        return existing
    text = manifest.model_dump_json(by_alias=True, indent=1, exclude_none=True)
    write_atomically(folder / MANIFEST, text)
    upload_file(folder / MANIFEST, f"{uri}/{MANIFEST}")
    return read_manifest(uri) or manifest


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time fill ``folder``, where the file system has locks."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        yield


def _difference(actual: FileEntry, expected: FileEntry) -> str:
    if actual.bytes != expected.bytes:
        return f"has {actual.bytes} bytes, and its manifest says {expected.bytes}"
    return "has other bytes than its manifest says"


def _stage_beside(target: Path, folder: Path) -> Path:
    """``folder`` moved to where it can be renamed to ``target``: copied, if it lies in another file system or mount."""
    staged = temporary_sibling(target)
    try:
        folder.rename(staged)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(folder, staged)
        shutil.rmtree(folder)
    return staged


def _remove_at_once(folder: Path) -> None:
    """Rename a folder away, then delete it: no reader sees a part of it."""
    aside = temporary_sibling(folder)
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another writer was quicker
    shutil.rmtree(aside)
