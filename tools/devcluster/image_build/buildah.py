"""Builds images with ``buildah``, without daemon or registry; each build has its own storage."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class ImageFailed(Exception):
    """An image was not built; the message is the end of the program's output, or what is wrong with the image."""


@dataclass(frozen=True)
class Storage:
    """Buildah's storage below ``folder``: the user's own images are not touched."""

    folder: Path

    def build(
        self, tag: str, dockerfile: Path, context: Path, arguments: Mapping[str, str], volumes: Mapping[Path, str]
    ) -> None:
        """Build a Dockerfile. Raises ImageFailed.

        ``volumes`` (file or folder → path) are mounted while its commands run, and are not part of the image.
        """
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options += [f"--volume={source}:{path}:ro" for source, path in volumes.items()]
        # In a chroot on the machine's network: creating namespaces may be forbidden. One layer for all commands:
        # each layer would copy all files that its command wrote.
        isolation = ["--isolation=chroot", "--network=host", "--pull-never", "--format=docker", "--layers=false"]
        self._run("build", *isolation, *options, f"--file={dockerfile}", f"--tag={tag}", str(context))

    def push(self, tag: str, archive: Path) -> None:
        """Write an image, with its name, to a file that ``docker load`` and ``ctr images import`` read."""
        self._run("push", "--quiet", tag, f"docker-archive:{archive}:{tag}")

    def _run(self, *command: str) -> None:
        own = [f"--root={self.folder / 'root'}", f"--runroot={self.folder / 'run'}"]
        # buildah writes blobs to TMPDIR; the user's may be too small.
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        run(["buildah", *own, *command], environment)


@contextmanager
def storage(folder: Path) -> Iterator[Storage]:
    """An empty storage in ``folder``, removed at the end; what a killed build left there is removed first."""
    _remove(folder)
    folder.mkdir()
    try:
        yield Storage(folder)
    finally:
        _remove(folder)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a program and drop its output. Raises ImageFailed with the end of the output.

    The program inherits this process's locks: if it outlives this process, other builds still wait for it.
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
    """Unmount everything below ``folder``, then delete it: the machine's own files may be mounted there."""
    if not folder.exists():
        return
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in sorted((path for path in mounted if Path(path).is_relative_to(folder)), reverse=True):
        run(["umount", path])
    shutil.rmtree(folder)
