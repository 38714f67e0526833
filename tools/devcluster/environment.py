"""What the trainer image holds, as two folders for a pod of the image ``thin``: quick to make anew after an edit.

The libraries change with the lock, and are hard links into uv's cache; our packages change with their sources. Pods get
both by hostPath volumes (`pod_template`) and read them only.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import buildah, cache
from devcluster.image_inputs import copy, digest, files, package

ROOT = Path(__file__).parents[2]
#: Of each kind; pods of other checkouts may be running from the small ones.
KEPT = {"packages": 20, "libraries": 2}
_LOCK = "requirements-trainer.lock"
_PACKAGES = ("crds", "serving", "trainer-image")
#: The image's Python, whichever runs this.
_PYTHON = "3.11"
_MOUNTED = "/environment"


@dataclass(frozen=True)
class Environment:
    """Two folders of importable packages; ours come first."""

    packages: Path
    libraries: Path


def folder() -> Path:
    """Where the environments lie."""
    return cache.root() / "environments"


def make() -> Environment:
    """The environment that the checkout describes, made where it is not there. Raises ImageFailed."""
    sources = files(ROOT, package(*_PACKAGES))
    packages = _made("packages", digest(ROOT, sources, _PYTHON), _install_packages)
    libraries = _made("libraries", digest(ROOT, [ROOT / _LOCK], _PYTHON), _install_libraries)
    return Environment(packages, libraries)


def pod_template(environment: Environment, container: str = "trainer") -> dict[str, Any]:
    """A podTemplate that gives ``environment`` to a container whose image has Python only."""
    mounts = {"packages": environment.packages, "libraries": environment.libraries}
    volumes = [
        {"name": name, "hostPath": {"path": str(path), "type": "Directory"}} for name, path in sorted(mounts.items())
    ]
    mounted = [{"name": name, "mountPath": f"{_MOUNTED}/{name}", "readOnly": True} for name in sorted(mounts)]
    path = {"name": "PYTHONPATH", "value": f"{_MOUNTED}/packages:{_MOUNTED}/libraries"}
    return {"spec": {"volumes": volumes, "containers": [{"name": container, "env": [path], "volumeMounts": mounted}]}}


def _made(kind: str, digest: str, install: Callable[[Path, Path], None]) -> Path:
    """The folder of ``kind`` and ``digest``; ``install`` fills it, with a scratch folder to work in."""
    folder().mkdir(parents=True, exist_ok=True)
    found = folder() / f"{kind}-{digest}"
    if not found.exists():
        with cache.alone(folder() / f".{kind}.lock"), cache.scratch(folder() / f".build-{kind}") as scratch:
            if not found.exists():
                install(scratch / "target", scratch)
                (scratch / "target").rename(found)
    os.utime(found)
    by_use = sorted(folder().glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_use[KEPT[kind] :]:
        shutil.rmtree(old)
    return found


def _install_libraries(target: Path, scratch: Path) -> None:
    _install(target, "--require-hashes", "-r", str(ROOT / _LOCK))


def _install_packages(target: Path, scratch: Path) -> None:
    """Built from a copy, and not by uv's cache: it takes a folder for unchanged whose pyproject.toml is."""
    copy(ROOT, files(ROOT, package(*_PACKAGES)), scratch)
    _install(target, "--no-cache", *(str(scratch / name) for name in _PACKAGES))


def _install(target: Path, *what: str) -> None:
    """Bytecode is compiled here: pods cannot write it, and reading torch without takes them ten seconds."""
    options = ["--python", sys.executable, "--python-version", _PYTHON, "--no-deps", "--no-build-isolation"]
    options += ["--compile-bytecode", "--target", str(target)]
    buildah.run([_uv(), "pip", "install", "--quiet", *options, *what])


def _uv() -> str:
    """The one of `make setup`, or the user's."""
    own = ROOT / ".make" / "uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise buildah.ImageFailed("uv is missing: run `make setup`")
    return found
