"""The cache of what is built for tests, and the lock by which one process at a time builds there."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """This project's folder in the user's cache: ``$XDG_CACHE_HOME/multitask`` or ``~/.cache/multitask``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multitask"


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``. The kernel releases it when the process ends.

    A child process that was started with ``close_fds=False`` holds it too.
    """
    with path.open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another build in {path.parent}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder, removed at the end; what a killed build left there is removed first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
