"""Which place is full, when something could not be written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAID = ("no space left on device", "disk quota exceeded", "os error 28", "os error 122")
_NEARLY_NOTHING = 1 << 20
"""Bytes. Some libraries say only that a file could not be written; with less than this left, that is why."""


def full_place(error: BaseException, places: Sequence[Path], mounts: Mapping[str, Path]) -> str | None:
    """What to tell the user if ``error`` came from a full file system; None if it did not.

    ``places``: the folders that were written to. ``mounts``: claim → where it is mounted.
    """
    chain = list(_chain(error))
    named = [Path(str(item.filename)) for item in chain if isinstance(item, OSError) and item.filename is not None]
    if any(_says_full(item) for item in chain):
        place = next(iter(named), None) or min(places, key=_free)
    elif any(map(_says_nothing, chain)) and min(map(_free, places)) < _NEARLY_NOTHING:
        place = min(places, key=_free)
    else:
        return None
    claim = next((name for name, mount in mounts.items() if place.is_relative_to(mount)), None)
    where = f"claim {claim!r}" if claim else f"the file system of {_existing(place)}"
    return f"{where} is full; make room there or enlarge it, then the stage goes on where it was"


def _chain(error: BaseException | None) -> Sequence[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    said = str(error).lower()
    return any(phrase in said for phrase in _SAID)


def _says_nothing(error: BaseException) -> bool:
    """Whether the error leaves open why something could not be written, as torch's own do."""
    return isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno in (None, errno.EIO))


def _free(place: Path) -> int:
    """Bytes; a file system that counts none, such as /proc, is never full."""
    found = os.statvfs(_existing(place))
    if found.f_blocks == 0:
        return sys.maxsize
    return found.f_bavail * found.f_frsize if found.f_files == 0 or found.f_favail else 0


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.absolute().parents) if path.exists())
