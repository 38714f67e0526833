"""Explains an error by a full disk: which claim or file system has no space left."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_MESSAGES = ("no space left on device", "disk quota exceeded", "os error 28", "os error 122")
_NO_SPACE_LEFT = 1 << 20
"""Bytes. Some libraries report only that a file could not be written; with less than this free, a full disk is why."""


def full_disk_message(error: BaseException, folders: Sequence[Path], mounts: Mapping[str, Path]) -> str | None:
    """What to tell the user if ``error`` came from a full file system; None if it did not.

    ``folders``: those that were written to. ``mounts``: claim → where it is mounted.
    """
    chain = list(_chain(error))
    named = [Path(str(item.filename)) for item in chain if isinstance(item, OSError) and item.filename is not None]
    if any(_is_disk_full(item) for item in chain):
        full = next(iter(named), None) or min(folders, key=_free_bytes)
    elif any(map(_is_unspecific, chain)) and min(map(_free_bytes, folders)) < _NO_SPACE_LEFT:
        full = min(folders, key=_free_bytes)
    else:
        return None
    claim = next((name for name, mount in mounts.items() if full.is_relative_to(mount)), None)
    where = f"claim {claim!r}" if claim else f"the file system of {_nearest_existing(full)}"
    return f"{where} is full; make room in it or enlarge it, then the stage resumes where it stopped"


def _chain(error: BaseException | None) -> Sequence[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    message = str(error).lower()
    return any(phrase in message for phrase in _FULL_MESSAGES)


def _is_unspecific(error: BaseException) -> bool:
    """Whether the error leaves open why something could not be written, as torch's own do."""
    return isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno in (None, errno.EIO))


def _free_bytes(path: Path) -> int:
    """Bytes; a file system that counts none, such as /proc, is never full."""
    filesystem = os.statvfs(_nearest_existing(path))
    if filesystem.f_blocks == 0:
        return sys.maxsize
    return filesystem.f_bavail * filesystem.f_frsize if filesystem.f_files == 0 or filesystem.f_favail else 0


def _nearest_existing(path: Path) -> Path:
    return next(path for path in (path, *path.absolute().parents) if path.exists())
