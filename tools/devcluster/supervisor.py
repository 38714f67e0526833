"""One control plane for all processes of a test run: the first user starts it, and it ends after the last one.

A supervisor process owns it. Users hold a shared lock on a file; the supervisor waits for the exclusive lock on it, so
it also notices users that were killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane


@contextmanager
def shared_control_plane(folder: Path) -> Iterator[ClusterClient]:
    """The control plane of ``folder``, started if it does not run. RuntimeError, with the log, if it does not start."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    with (folder / "users").open("w") as users:
        with (folder / "starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)  # waits while a supervisor stops its servers
            if not _is_running(folder):
                _start_supervisor(folder)
        address = json.loads((folder / "address.json").read_text())
        yield ClusterClient(Path(address["folder"]), address["url"])


def _is_running(folder: Path) -> bool:
    with (folder / "supervisor.lock").open("w") as supervisor:
        try:
            fcntl.flock(supervisor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start_supervisor(folder: Path) -> None:
    with (folder / "supervisor.log").open("w+") as log:
        done = subprocess.run(
            [sys.executable, __file__, str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
        log.seek(0)
        if done.returncode != 0:
            raise RuntimeError(f"the control plane did not start:\n{log.read()}")


def main() -> int:
    """Continue in the background; exit in the foreground with 0 once the control plane answers, or with 1."""
    folder = Path(sys.argv[1])
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return 0 if os.read(reading, 1) else 1
    os.close(reading)
    os.setsid()
    _supervise(folder, writing)
    return 0


def _supervise(folder: Path, started: int) -> None:
    with (folder / "supervisor.lock").open("w") as supervisor, (folder / "users").open("w") as users:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        with ControlPlane(folder / f"control-plane-{os.getpid()}") as plane:
            address = {"folder": str(plane.client.folder), "url": plane.client.url}
            (folder / "address.json").write_text(json.dumps(address))
            os.write(started, b".")
            os.close(started)
            fcntl.flock(users, fcntl.LOCK_EX)  # until the last user is gone


if __name__ == "__main__":
    raise SystemExit(main())
