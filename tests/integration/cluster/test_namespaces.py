"""What runs in namespaces of its own gives back its status, and is gone when the one who started it is."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import namespaces
from devcluster.processes import until

TOOLS = Path(__file__).parents[3] / "tools"
STARTER = "import subprocess, sys; from devcluster import namespaces; subprocess.run(namespaces.command(sys.argv[1:]))"
#: Holds a lock on a file for as long as it lives.
HOLDER = "import fcntl, signal, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, 2); print('locked', flush=True); "


@pytest.fixture(autouse=True)
def _able() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes namespaces")


def test_its_status_is_that_of_the_program():
    assert subprocess.run(namespaces.command(["sh", "-c", "exit 7"]), check=False).returncode == 7


def test_killed_its_starter_leaves_nothing_running(tmp_path):
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", f"{HOLDER}signal.pause()", str(lock)]
    argv = [sys.executable, "-c", STARTER, *command]
    with subprocess.Popen(argv, cwd=TOOLS, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "locked\n"
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        starter.kill()
    until("the lock is free", lambda: _is_free(lock), 60)


def _is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
