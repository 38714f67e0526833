"""One control plane for all processes of a test run: the first that asks starts it, and it ends after the last.

A keeper process owns it. Who uses the control plane holds a shared lock on a file; the keeper waits for that lock
alone, so it also notices users that were killed.
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
def shared(folder: Path) -> Iterator[ClusterClient]:
    """The control plane of ``folder``, started if it does not run. RuntimeError with the log if it cannot be."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    with (folder / "users").open("w") as users:
        with (folder / "starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)  # waits while a keeper stops its servers
            if not _is_kept(folder):
                _start_supervisor(folder)
        found = json.loads((folder / "address.json").read_text())
        yield ClusterClient(Path(found["folder"]), found["url"])


def _is_kept(folder: Path) -> bool:
    with (folder / "keeper").open("w") as keeper:
        try:
            fcntl.flock(keeper, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start_supervisor(folder: Path) -> None:
    with (folder / "keeper.log").open("w+") as log:
        done = subprocess.run(
            [sys.executable, __file__, str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
        log.seek(0)
        if done.returncode != 0:
            raise RuntimeError(f"the control plane did not start:\n{log.read()}")


def main() -> int:
    """Go on in the background; end in the foreground as soon as the control plane answers, or with 1."""
    folder = Path(sys.argv[1])
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return 0 if os.read(reading, 1) else 1
    os.close(reading)
    os.setsid()
    _keep(folder, writing)
    return 0


def _keep(folder: Path, started: int) -> None:
    with (folder / "keeper").open("w") as keeper, (folder / "users").open("w") as users:
        fcntl.flock(keeper, fcntl.LOCK_EX)
        with ControlPlane(folder / f"control-plane-{os.getpid()}") as plane:
            found = {"folder": str(plane.client.folder), "url": plane.client.url}
            (folder / "address.json").write_text(json.dumps(found))
            os.write(started, b".")
            os.close(started)
            fcntl.flock(users, fcntl.LOCK_EX)  # until nobody is left


if __name__ == "__main__":
    raise SystemExit(main())
