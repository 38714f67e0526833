"""Local files: written atomically, synced, described by size and SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterable
from pathlib import Path

from multitask_api.stage_io.manifest import FileEntry
from multitask_api.stages.digests import digest

_VERSION_KEYS = {"transformers_version", "peft_version"}


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` in one step, so that a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def temporary_sibling(path: Path) -> Path:
    """A new hidden name in the folder of ``path``, to be renamed to it: only then do readers see it."""
    return path.with_name(f".{path.name}.{unique_name()}")


def unique_name() -> str:
    """A name that no other process on any machine uses: ``<host>.<process id>.<random>``."""
    return f"{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything below it to the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            sync_path(path)


def sync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_entry(path: Path) -> FileEntry:
    """SHA-256 and size of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return FileEntry(sha256=sha.hexdigest(), bytes=path.stat().st_size)


def matches_entry(path: Path, entry: FileEntry) -> bool:
    """Whether there is the file of ``entry``; the size says it of most that are not, without reading them."""
    return path.is_file() and path.stat().st_size == entry.bytes and file_entry(path) == entry


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """All files below ``folder`` by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in files}


def content_digest(folder: Path, names: Iterable[str] | None = None) -> str:
    """A digest of the named files or sub-folders of ``folder`` (all without ``names``): same bytes, same digest."""
    entries = file_entries(folder)
    wanted = None if names is None else tuple(names)
    kept = {
        name: entry.sha256
        for name, entry in entries.items()
        if wanted is None or any(name == want or name.startswith(f"{want}/") for want in wanted)
    }
    return digest(kept)


def drop_library_versions(folder: Path) -> None:
    """Remove the library versions that transformers and PEFT write into their settings.

    The manifest has the versions; in the files they would give the same weights another digest.
    """
    for path in folder.glob("*.json"):
        settings = json.loads(path.read_text("utf-8"))
        if isinstance(settings, dict) and settings.keys() & _VERSION_KEYS:
            kept = {name: value for name, value in settings.items() if name not in _VERSION_KEYS}
            write_atomically(path, json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False))
