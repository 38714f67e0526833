"""What the images trainer and triton have, as folders for pods of the image ``thin``: quick to rebuild after an edit.

The libraries change with the locks and are hard links into uv's cache; our packages change with their sources. Pods
mount them read-only by hostPath volumes (`pod_template`, `server_pod_template`). Servers have the trainer's libraries,
which are more than their own, and Triton.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import cache
from devcluster.image_build import buildah
from devcluster.image_build.image_definition import copy, digest, files, package

ROOT = Path(__file__).parents[3]
#: Folders of each kind that are kept: pods of other checkouts may use older ones.
KEPT = {"packages": 20, "libraries": 2, "triton": 2}
_LOCK = "requirements-trainer.lock"
_TRITON_LOCK = "requirements-triton.lock"
_PACKAGES = ("crds", "client", "serving", "trainer-image")
#: The Python of the image, whichever runs this module.
_PYTHON = "3.11"
_MOUNTED = "/environment"


@dataclass(frozen=True)
class Environment:
    """Folders for PYTHONPATH, in this order; servers need ``triton`` too."""

    packages: Path
    libraries: Path
    triton: Path | None = None


def folder() -> Path:
    """The folder of all environments."""
    return cache.root() / "environments"


def build(*, with_triton: bool = False) -> Environment:
    """The environment of this checkout, built if it is missing. Raises ImageFailed."""
    sources = files(ROOT, package(*_PACKAGES))
    packages = _cached("packages", digest(ROOT, sources, _PYTHON), _install_packages)
    libraries = _cached("libraries", digest(ROOT, [ROOT / _LOCK], _PYTHON), _install_lock(_LOCK))
    if not with_triton:
        return Environment(packages, libraries)
    triton = _cached("triton", digest(ROOT, [ROOT / _TRITON_LOCK], _PYTHON), _install_lock(_TRITON_LOCK))
    return Environment(packages, libraries, triton)


def pod_template(environment: Environment, container: str = "trainer", *, init_container: str = "") -> dict[str, Any]:
    """A podTemplate that mounts ``environment`` in a container, or two, whose image has only Python."""
    folders = {"packages": environment.packages, "libraries": environment.libraries, "triton": environment.triton}
    mounts = {name: path for name, path in folders.items() if path is not None}
    volumes = [
        {"name": name, "hostPath": {"path": str(path), "type": "Directory"}} for name, path in sorted(mounts.items())
    ]
    path = {"name": "PYTHONPATH", "value": ":".join(f"{_MOUNTED}/{name}" for name in mounts)}

    def mounting(name: str) -> dict[str, Any]:
        mounted = [{"name": each, "mountPath": f"{_MOUNTED}/{each}", "readOnly": True} for each in sorted(mounts)]
        return {"name": name, "env": [path], "volumeMounts": mounted}

    pod: dict[str, Any] = {"volumes": volumes, "containers": [mounting(container)]}
    if init_container:
        pod["initContainers"] = [mounting(init_container)]
    return {"spec": pod}


def server_pod_template(environment: Environment) -> dict[str, Any]:
    """A podTemplate for the servers of a revision, of an environment with Triton."""
    return pod_template(environment, "server", init_container="fetch")


def _cached(kind: str, digest: str, install: Callable[[Path, Path], None]) -> Path:
    """The folder of ``kind`` and ``digest``; ``install(target, scratch)`` fills it if it is missing."""
    folder().mkdir(parents=True, exist_ok=True)
    folder_path = folder() / f"{kind}-{digest}"
    if not folder_path.exists():
        with (
            cache.exclusive_lock(folder() / f".{kind}.lock"),
            cache.scratch_folder(folder() / f".build-{kind}") as scratch,
        ):
            if not folder_path.exists():
                install(scratch / "target", scratch)
                (scratch / "target").rename(folder_path)
    os.utime(folder_path)
    by_use = sorted(folder().glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_use[KEPT[kind] :]:
        shutil.rmtree(old)
    return folder_path


def _install_lock(lock: str) -> Callable[[Path, Path], None]:
    def install(target: Path, scratch: Path) -> None:
        _install(target, "--require-hashes", "-r", str(ROOT / lock))

    return install


def _install_packages(target: Path, scratch: Path) -> None:
    """Build from a copy and without uv's cache, which treats a folder as unchanged if its pyproject.toml is."""
    copy(ROOT, files(ROOT, package(*_PACKAGES)), scratch)
    _install(target, "--no-cache", *(str(scratch / name) for name in _PACKAGES))


def _install(target: Path, *requirements: str) -> None:
    """Compile bytecode too: pods cannot write it, and importing torch without it takes ten more seconds."""
    options = ["--python", sys.executable, "--python-version", _PYTHON, "--no-deps", "--no-build-isolation"]
    options += ["--compile-bytecode", "--target", str(target)]
    buildah.run([_uv(), "pip", "install", "--quiet", *options, *requirements])


def _uv() -> str:
    """The uv of `make setup`, or the one on PATH."""
    own = ROOT / ".make" / "uv" / "bin" / "uv"
    folder_path = str(own) if own.exists() else shutil.which("uv")
    if folder_path is None:
        raise buildah.ImageFailed("uv is missing: run `make setup`")
    return folder_path
