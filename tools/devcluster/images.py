"""Makes container images without registry or daemon: ``python tools/devcluster/images.py [IMAGE …]``.

They lie in a cache outside the checkout, each as an archive that ``ctr images import`` reads, named by a digest of all
that goes into it. An archive is renamed into place when it is whole and was checked; of one image the newest two stay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from devcluster import archives, base, buildah, cache, environment, pip_config
from devcluster.image_inputs import ImageInputs, package

ROOT = Path(__file__).parents[2]
KEPT = 2
_DOCKERFILES = "tools/devcluster/recipes"
_BASE = "localhost/multitask-base:1"
_BASE_FILE = f"{_DOCKERFILES}/base.Dockerfile"
_USER = "10001:10001"


@dataclass(frozen=True)
class Archive:
    """An image's file, and the name that it has once imported."""

    path: Path
    reference: str


def recipes() -> Mapping[str, ImageInputs]:
    """Name → recipe of every image."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    both = (".dockerignore", "LICENSE", "requirements-build.lock", _BASE_FILE)
    operator = (*both, "requirements-operator.lock", *package("crds", "operator"))
    trainer = (*both, "requirements-trainer.lock", *package("crds", "serving", "trainer-image"))
    return {
        "operator": ImageInputs("operator/Dockerfile", operator, version, _USER, "opt/multitask", base.COMMAND, 4),
        "trainer": ImageInputs("trainer-image/Dockerfile", trainer, version, _USER, "opt/multitask", base.COMMAND, 40),
        "thin": ImageInputs(f"{_DOCKERFILES}/thin.Dockerfile", (_BASE_FILE,), "1", _USER, base=base.COMMAND),
        "pause": ImageInputs(f"{_DOCKERFILES}/pause.Dockerfile", (f"{_DOCKERFILES}/pause.c",), "1", "65535:65535"),
    }


def folder() -> Path:
    """Where the archives lie."""
    return cache.root() / "images"


def archive(name: str) -> Archive:
    """The archive of an image as the checkout describes it, made if it is not there. Raises ImageFailed."""
    recipe = recipes()[name]
    folder().mkdir(parents=True, exist_ok=True)
    found = _archive(name, recipe, ROOT)
    if not found.path.exists():
        with cache.alone(folder() / f".{name}.lock"), cache.scratch(folder() / f".build-{name}") as scratch:
            # From a copy: what is edited during a build belongs to another digest.
            recipe.copy(ROOT, scratch / "context")
            found = _archive(name, recipe, scratch / "context")
            if not found.path.exists():
                _make(name, recipe, found, scratch)
    os.utime(found.path)
    for old in _archives(name)[KEPT:]:
        old.unlink(missing_ok=True)
    return found


def _archive(name: str, recipe: ImageInputs, root: Path) -> Archive:
    path = folder() / f"{name}-{recipe.digest(root)}.tar"
    return Archive(path, f"localhost/multitask-{name}:{recipe.version}")


def _archives(name: str) -> list[Path]:
    """Those of one image, the last used first."""
    return sorted(folder().glob(f"{name}-????????????.tar"), key=lambda path: path.stat().st_mtime, reverse=True)


def _make(name: str, recipe: ImageInputs, found: Archive, scratch: Path) -> None:
    _need_room(name, recipe)
    get_programs()
    context, made = scratch / "context", scratch / "image.tar"
    settings = pip_config.pip_settings(pip_config.pip_files())
    volumes = pip_config.volumes(scratch / "machine", settings)
    if name == "pause":
        buildah.run(["gcc", "-static", "-Os", "-s", "-o", f"{context}/pause", f"{context}/{recipe.inputs[0]}"])
    with buildah.storage(folder() / f".storage-{name}") as storage:
        if recipe.base:
            with _step(name, "base"):
                _make_base(storage, context / _BASE_FILE, scratch / "base")
        with _step(name, "build"):
            arguments = {"BASE_IMAGE": _BASE} if recipe.base else {}
            storage.build(found.reference, context / recipe.dockerfile, context, arguments, volumes)
        with _step(name, "archive"):
            storage.push(found.reference, made)
    with _step(name, "check"):
        private = [word for setting in pip_config.PRIVATE for word in settings.get(setting, "").split()]
        wrong = list(archives.problems(archives.read(made), recipe.user, recipe.folder, private))
    if wrong:
        raise buildah.ImageFailed("\n".join([f"the image {name} is not as it should be:", *wrong]))
    made.rename(found.path)


def _need_room(name: str, recipe: ImageInputs) -> None:
    free = shutil.disk_usage(folder()).free / 1e9
    if free < recipe.space:
        raise buildah.ImageFailed(
            f"{name} needs {recipe.space} GB in {folder()} while it is built; {free:.0f} are free"
        )


def _make_base(storage: buildah.Storage, dockerfile: Path, context: Path) -> None:
    context.mkdir()
    (context / "rootfs.tar").hardlink_to(base.rootfs(folder()))
    storage.build(_BASE, dockerfile, context, {}, {})


def get_programs() -> None:
    """Install what a build needs, where that can be done; else CalledProcessError after a word of what is missing."""
    subprocess.run([ROOT / "tools" / "get_node_packages.sh"], check=True)


@contextmanager
def _step(name: str, what: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{name}: {what} …", flush=True)
    yield
    print(f"{name}: {what} took {time.monotonic() - began:.0f} s", flush=True)


def _list() -> None:
    for path in sorted(folder().glob("*.tar")):
        print(f"{path}\t{path.stat().st_size / 1e6:.0f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    """Make the named images."""
    parser = argparse.ArgumentParser(description="Make container images without registry or daemon.")
    names = (*recipes(), "environment")
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help=f"of {', '.join(names)} (default: operator, trainer)"
    )
    parser.add_argument("--list", action="store_true", help="say which archives there are, and make none")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.images if name not in names]:
        parser.error(f"no such image: {', '.join(unknown)}; there are {', '.join(names)}")
    if arguments.list:
        _list()
        return 0
    try:
        for name in arguments.images or ("operator", "trainer"):
            if name == "environment":
                print(yaml.safe_dump({"podTemplate": environment.pod_template(environment.make())}, sort_keys=False))
                continue
            made = archive(name)
            print(f"{made.reference}\t{made.path}\t{made.path.stat().st_size / 1e6:.0f} MB", flush=True)
    except (buildah.ImageFailed, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
