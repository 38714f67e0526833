"""Builds the root file system of the base image from Debian packages; it stands in for python:3.11-slim-bookworm."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from devcluster import cache
from devcluster.image_build import buildah

SUITE = "bookworm"
PACKAGES = ("python3.11", "python3.11-venv", "libpython3.11", "ca-certificates")
#: No manuals and translations; licences stay.
_OPTIONS = (
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)
#: Python's names as in Docker's image; the build machine's host name and resolver are removed.
_HOOKS = (
    'ln -s /usr/bin/python3.11 "$1/usr/local/bin/python"',
    'ln -s /usr/bin/python3.11 "$1/usr/local/bin/python3"',
    'rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
)
COMMAND = (
    "mmdebstrap",
    "--mode=root",
    "--variant=minbase",
    f"--include={','.join(PACKAGES)}",
    *_OPTIONS,
    *(f"--customize-hook={hook}" for hook in _HOOKS),
    SUITE,
)


def rootfs(folder: Path) -> Path:
    """The tar archive of the file system, built in ``folder`` if it is missing. Raises ImageFailed."""
    archive = folder / f"base-{hashlib.sha256(json.dumps(COMMAND).encode()).hexdigest()[:12]}.rootfs.tar"
    if not archive.exists():
        with cache.exclusive_lock(folder / ".base.lock"), cache.scratch_folder(folder / ".build-base") as scratch:
            if not archive.exists():
                buildah.run([*COMMAND, str(scratch / "rootfs.tar")])
                (scratch / "rootfs.tar").rename(archive)
    return archive
