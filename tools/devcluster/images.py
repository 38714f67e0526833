"""Builds container images without registry or daemon: ``python tools/devcluster/images.py [IMAGE …]``.

Images are cached outside the checkout, each as an archive that ``ctr images import`` reads, named by a digest of all
its inputs. An archive is moved into place when it is complete and checked; the two newest of each image are kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from devcluster import cache
from devcluster.image_build import archives, base, buildah, environment, pip_config
from devcluster.image_build.image_definition import ImageDefinition, package

ROOT = Path(__file__).parents[2]
KEPT = 2
_DOCKERFILES = "tools/devcluster/dockerfiles"
_BASE = "localhost/multitask-base:1"
_BASE_FILE = f"{_DOCKERFILES}/base.Dockerfile"
_USER = "10001:10001"
_PRODUCT = ("operator", "trainer", "triton", "gateway")
_ENVIRONMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "environment": lambda: environment.pod_template(environment.build()),
    "server-environment": lambda: environment.server_pod_template(environment.build(with_triton=True)),
}
"""What prints a podTemplate for pods of the image ``thin``."""


@dataclass(frozen=True)
class Archive:
    """The file of an image, and the image's name once it is imported."""

    path: Path
    reference: str


def definitions() -> Mapping[str, ImageDefinition]:
    """Name → definition of every image."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    both = (".dockerignore", "LICENSE", "requirements-build.lock", _BASE_FILE)
    operator = (*both, "requirements-operator.lock", *package("crds", "kubernetes-client", "operator"))
    trainer = (*both, "requirements-trainer.lock", *package("crds", "client", "serving", "trainer-image"))
    triton = (
        *(*both, "requirements-serving.lock", "requirements-triton.lock"),
        *package("crds", "client", "serving", "trainer-image"),
    )
    gateway = (*both, "requirements-gateway.lock", *package("crds", "client", "kubernetes-client", "serving"))
    return {
        "operator": ImageDefinition("operator/Dockerfile", operator, version, _USER, "opt/multitask", base.COMMAND, 4),
        "trainer": ImageDefinition(
            "trainer-image/Dockerfile", trainer, version, _USER, "opt/multitask", base.COMMAND, 40
        ),
        "triton": ImageDefinition(
            "serving/triton.Dockerfile", triton, version, _USER, "opt/multitask", base.COMMAND, 40
        ),
        "gateway": ImageDefinition(
            "serving/gateway.Dockerfile", gateway, version, _USER, "opt/multitask", base.COMMAND, 4
        ),
        "thin": ImageDefinition(f"{_DOCKERFILES}/thin.Dockerfile", (_BASE_FILE,), "1", _USER, base=base.COMMAND),
        "pause": ImageDefinition(f"{_DOCKERFILES}/pause.Dockerfile", (f"{_DOCKERFILES}/pause.c",), "1", "65535:65535"),
    }


def folder() -> Path:
    """The folder of all archives."""
    return cache.root() / "images"


def archive(name: str) -> Archive:
    """The archive of an image of this checkout, built if it is missing. Raises ImageFailed."""
    definition = definitions()[name]
    folder().mkdir(parents=True, exist_ok=True)
    target = _archive(name, definition, ROOT)
    if not target.path.exists():
        with (
            cache.exclusive_lock(folder() / f".{name}.lock"),
            cache.scratch_folder(folder() / f".build-{name}") as scratch,
        ):
            # From a copy: an edit during the build must not get into this digest.
            definition.copy(ROOT, scratch / "context")
            target = _archive(name, definition, scratch / "context")
            if not target.path.exists():
                _make(name, definition, target, scratch)
    os.utime(target.path)
    for old in _archives(name)[KEPT:]:
        old.unlink(missing_ok=True)
    return target


def _archive(name: str, definition: ImageDefinition, root: Path) -> Archive:
    path = folder() / f"{name}-{definition.digest(root)}.tar"
    return Archive(path, f"localhost/multitask-{name}:{definition.version}")


def _archives(name: str) -> list[Path]:
    """The archives of one image, the last used first."""
    return sorted(folder().glob(f"{name}-????????????.tar"), key=lambda path: path.stat().st_mtime, reverse=True)


def _make(name: str, definition: ImageDefinition, target: Archive, scratch: Path) -> None:
    _check_disk_space(name, definition)
    get_programs()
    context, archive_path = scratch / "context", scratch / "image.tar"
    settings = pip_config.pip_settings(pip_config.pip_files())
    volumes = pip_config.volumes(scratch / "machine", settings)
    if name == "pause":
        buildah.run(["gcc", "-static", "-Os", "-s", "-o", f"{context}/pause", f"{context}/{definition.inputs[0]}"])
    with buildah.storage(folder() / f".storage-{name}") as storage:
        if definition.base:
            with _step(name, "base"):
                _make_base(storage, context / _BASE_FILE, scratch / "base")
        with _step(name, "build"):
            arguments = {"BASE_IMAGE": _BASE} if definition.base else {}
            storage.build(target.reference, context / definition.dockerfile, context, arguments, volumes)
        with _step(name, "archive"):
            storage.push(target.reference, archive_path)
    with _step(name, "check"):
        private = [word for setting in pip_config.PRIVATE for word in settings.get(setting, "").split()]
        problems = list(archives.problems(archives.read(archive_path), definition.user, definition.folder, private))
    if problems:
        raise buildah.ImageFailed("\n".join([f"the image {name} has problems:", *problems]))
    archive_path.rename(target.path)


def _check_disk_space(name: str, definition: ImageDefinition) -> None:
    free = shutil.disk_usage(folder()).free / 1e9
    if free < definition.space:
        raise buildah.ImageFailed(
            f"{name} needs {definition.space} GB in {folder()} while it is built; {free:.0f} are free"
        )


def _make_base(storage: buildah.Storage, dockerfile: Path, context: Path) -> None:
    context.mkdir()
    (context / "rootfs.tar").hardlink_to(base.rootfs(folder()))
    storage.build(_BASE, dockerfile, context, {}, {})


def get_programs() -> None:
    """Install the programs that a build needs. CalledProcessError if it cannot; the reason is printed before."""
    subprocess.run([ROOT / "tools" / "get_node_packages.sh"], check=True)


@contextmanager
def _step(name: str, step_name: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{name}: {step_name} …", flush=True)
    yield
    print(f"{name}: {step_name} took {time.monotonic() - began:.0f} s", flush=True)


def _list() -> None:
    for path in sorted(folder().glob("*.tar")):
        print(f"{path}\t{path.stat().st_size / 1e6:.0f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the named images."""
    parser = argparse.ArgumentParser(description="Build container images without registry or daemon.")
    names = (*definitions(), *_ENVIRONMENTS)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help=f"one of {', '.join(names)} (default: {', '.join(_PRODUCT)})"
    )
    parser.add_argument("--list", action="store_true", help="list the archives, and build none")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.images if name not in names]:
        parser.error(f"no such image: {', '.join(unknown)}; there are {', '.join(names)}")
    if arguments.list:
        _list()
        return 0
    try:
        for name in arguments.images or _PRODUCT:
            if name in _ENVIRONMENTS:
                print(yaml.safe_dump({"podTemplate": _ENVIRONMENTS[name]()}, sort_keys=False))
                continue
            image = archive(name)
            print(f"{image.reference}\t{image.path}\t{image.path.stat().st_size / 1e6:.0f} MB", flush=True)
    except (buildah.ImageFailed, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
