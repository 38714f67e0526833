"""Artifact folders at any fsspec address: fetched whole, published whole, the manifest last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import fsspec
from pydantic import ValidationError

from multitask_api.digests import digest
from multitask_api.manifest import MANIFEST, FileEntry, Manifest
from multitask_trainer.errors import ArtifactError

_VERSIONS = {"transformers_version", "peft_version"}


def local_path(address: str) -> Path | None:
    """The path of a local address; None for a remote one."""
    if address.startswith("file://"):
        return Path(address.removeprefix("file://"))
    return None if "://" in address else Path(address)


def read_manifest(address: str) -> Manifest | None:
    """The manifest of the artifact at ``address``; None if there is none (the folder is then not a result).

    Raises `ArtifactError` for one that cannot be read.
    """
    fs, path = fsspec.url_to_fs(address)
    try:
        text = fs.cat_file(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{address}/{MANIFEST} cannot be read; delete the folder to redo it") from error


def fetch(address: str, cache: Path) -> Path:
    """A local folder with the artifact's files: the folder itself if it is local, else a checked copy in ``cache``."""
    local = local_path(address)
    if local is not None:
        if not (local / MANIFEST).exists():
            raise ArtifactError(f"{address}: no {MANIFEST}; the stage that makes it has not finished")
        return local
    manifest = read_manifest(address)
    if manifest is None:
        raise ArtifactError(f"{address}: no {MANIFEST}; the stage that makes it has not finished")
    target = cache / manifest.stage / manifest.digest
    fs, path = fsspec.url_to_fs(address)
    for name, entry in manifest.files.items():
        file = target / name
        if not file.exists() or file_entry(file) != entry:
            file.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{path}/{name}", str(file))
            if file_entry(file) != entry:
                raise ArtifactError(f"{address}/{name}: not what its manifest says; delete the folder to redo it")
    return target


def publish(folder: Path, address: str, manifest: Manifest) -> None:
    """Put the files of ``folder`` at ``address``, then the manifest: last, and in one step.

    Locally all files are on the disk before the manifest is: after a power cut, what a manifest names is there.
    """
    text = manifest.model_dump_json(by_alias=True, indent=1, exclude_none=True)
    local = local_path(address)
    if local is None:
        fs, path = fsspec.url_to_fs(address)
        for name in manifest.files:
            fs.put_file(str(folder / name), f"{path}/{name}")
        fs.pipe_file(f"{path}/{MANIFEST}", text.encode())
        return
    if local.exists():
        shutil.rmtree(local)  # no manifest was there, or this stage would not have run: it is debris
    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(local)
    except OSError:  # another file system
        shutil.copytree(folder, local)
        shutil.rmtree(folder)
    _sync(local)
    write_atomically(local / MANIFEST, text)
    _sync_one(local)


def _sync(folder: Path) -> None:
    """Put a folder, all below it and its own name on the disk."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if path.is_file() or path.is_dir():
            _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` in one step, so that a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_entry(path: Path) -> FileEntry:
    """SHA-256 and size of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return FileEntry(sha256=sha.hexdigest(), bytes=path.stat().st_size)


def describe(folder: Path) -> dict[str, FileEntry]:
    """All files below ``folder`` by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in files}


def drop_versions(folder: Path) -> None:
    """Remove the library versions that transformers and PEFT write into their settings.

    The manifest names the versions; in the files they would give the same weights another digest.
    """
    for path in folder.glob("*.json"):
        settings = json.loads(path.read_text("utf-8"))
        if isinstance(settings, dict) and settings.keys() & _VERSIONS:
            kept = {name: value for name, value in settings.items() if name not in _VERSIONS}
            write_atomically(path, json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False))


def content_digest(folder: Path, names: Iterable[str] | None = None) -> str:
    """A digest of the named files or sub-folders of ``folder`` (all without ``names``): same bytes, same digest."""
    entries = describe(folder)
    wanted = None if names is None else tuple(names)
    kept = {
        name: entry.sha256
        for name, entry in entries.items()
        if wanted is None or any(name == want or name.startswith(f"{want}/") for want in wanted)
    }
    return digest(kept)
