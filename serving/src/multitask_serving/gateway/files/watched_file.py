"""A file that is read again when it changes; a bad one changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from multitask_api.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")


def file_version(path: Path) -> tuple[int, ...]:
    """Another value for another content; empty without the file."""
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_ino, state.st_mtime_ns, state.st_size


class WatchedFile(Generic[T]):
    """``content`` is what ``read`` gave the last time that it did not raise ``invalid``."""

    def __init__(self, path: Path, read: Callable[[], T], invalid: type[UserError], what: str) -> None:
        """Read the file for the first time; whatever ``read`` raises is raised. ``what`` is for the log."""
        self._path = path
        self._read = read
        self._invalid = invalid
        self._what = what
        self._read_version = file_version(path)
        self.content = read()

    def refresh(self) -> bool:
        """Read the file again if it has changed. Returns whether the content was replaced; logs an invalid file."""
        version = file_version(self._path)
        if version == self._read_version:
            return False
        self._read_version = version
        try:
            self.content = self._read()
        except self._invalid as error:
            log.error("%s not changed: %s", self._what, error)
            return False
        return True
