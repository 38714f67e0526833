"""A node's copies of bundles: one folder for each, kept while a server reads it and for a while after.

A server holds a shared lock on the file `CACHE_LOCK` of its copy for as long as it lives, so the copy of a server that
restarts on the node is still there, and others go.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from pathlib import Path

from multitask_api.serving_io.names import CACHE_LOCK

KEPT = 2
"""Copies that stay without a server, the last used ones: those of a rollout, and of the rollback from it."""
_YOUNG_S = 3600.0
"""A copy that was made so lately may be waiting for its server."""


def make_room(cache: Path, keep: Path) -> None:
    """Make the folder ``keep``, mark it as used now, and delete copies without a server but for the newest `KEPT`."""
    keep.mkdir(parents=True, exist_ok=True)
    (keep / CACHE_LOCK).touch()
    others = [folder for folder in cache.iterdir() if (folder / CACHE_LOCK).exists() and folder != keep]
    by_use = sorted(others, key=lambda folder: (folder / CACHE_LOCK).stat().st_mtime, reverse=True)
    for folder in by_use[KEPT:]:
        if time.time() - (folder / CACHE_LOCK).stat().st_mtime > _YOUNG_S:
            _remove_unless_used(folder)


def _remove_unless_used(folder: Path) -> None:
    with (folder / CACHE_LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder, ignore_errors=True)
