"""Images by ``buildah``, which needs no daemon and no registry; each build has a storage of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class ImageFailed(Exception):
    """An image was not made; the message is the end of what the program said, or what is wrong with the image."""


@dataclass(frozen=True)
class Storage:
    """Where buildah keeps layers, below ``folder``, so that it touches no image of the user's."""

    folder: Path

    def build(
        self, tag: str, dockerfile: Path, context: Path, arguments: Mapping[str, str], volumes: Mapping[Path, str]
    ) -> None:
        """Build a Dockerfile. Raises ImageFailed.

        ``volumes``, file or folder → path, are there while its commands run, and not in the image.
        """
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options += [f"--volume={source}:{path}:ro" for source, path in volumes.items()]
        # In a chroot on the machine's network: there may be no rights to make namespaces. A layer for each command
        # would be a copy of everything that the command has made.
        how = ["--isolation=chroot", "--network=host", "--pull-never", "--format=docker", "--layers=false"]
        self._run("build", *how, *options, f"--file={dockerfile}", f"--tag={tag}", str(context))

    def push(self, tag: str, archive: Path) -> None:
        """Write an image, under its name, as a file that ``docker load`` and ``ctr images import`` read."""
        self._run("push", "--quiet", tag, f"docker-archive:{archive}:{tag}")

    def _run(self, *command: str) -> None:
        own = [f"--root={self.folder / 'root'}", f"--runroot={self.folder / 'run'}"]
        # It puts blobs into TMPDIR, which for a user may be small.
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        run(["buildah", *own, *command], environment)


@contextmanager
def storage(folder: Path) -> Iterator[Storage]:
    """An empty one; what a killed build left there goes first, and all of it at the end."""
    _remove(folder)
    folder.mkdir()
    try:
        yield Storage(folder)
    finally:
        _remove(folder)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a program that is quiet when all is well. Raises ImageFailed.

    It holds the locks of this process: one that is left behind when this process is killed still keeps others out.
    """
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        close_fds=False,
    )
    if done.returncode != 0:
        raise ImageFailed(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-4000:]}")


def _remove(folder: Path) -> None:
    """Delete it. What is mounted below it is unmounted first: a container's root may hold the machine's own files."""
    if not folder.exists():
        return
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in sorted((path for path in mounted if Path(path).is_relative_to(folder)), reverse=True):
        run(["umount", path])
    shutil.rmtree(folder)
