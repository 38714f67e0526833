"""Reads an image archive, and checks that no setting of the build machine is in it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where a build might leave settings of its machine: of pip and uv, certificates, accounts.
_SETTINGS = ("etc/pip.conf", "etc/uv", "run/machine", "root/.cache", "root/.config", "root/.pip", "root/.netrc")
_APT = ("etc/apt/auth.conf", "etc/apt/apt.conf")
#: Variables that a base image and our Dockerfiles set.
_VARIABLES = frozenset(("PATH", "LANG", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256", "PYTHONUNBUFFERED"))


@dataclass(frozen=True)
class ImageContents:
    """An image: the names under which it is loaded, its configuration, and the paths of the files in each layer."""

    references: tuple[str, ...]
    configuration: dict[str, Any]
    layers: tuple[tuple[str, ...], ...]


def read(archive: Path) -> ImageContents:
    """Read a file as ``docker save`` writes it. Raises KeyError for any other tar file."""
    with tarfile.open(archive) as outer:

        def member(name: str) -> Any:
            return outer.extractfile(outer.getmember(name))

        (image,) = json.load(member("manifest.json"))
        layers = []
        for name in image["Layers"]:
            with tarfile.open(fileobj=member(name)) as layer:
                layers.append(tuple(each.name.removeprefix("./") for each in layer if not each.isdir()))
        return ImageContents(tuple(image["RepoTags"]), json.load(member(image["Config"])), tuple(layers))


def problems(contents: ImageContents, user: str, folder: str, private: Sequence[str] = ()) -> Iterator[str]:
    """Problems of an image that should run as ``user`` and add files to its base below ``folder`` only.

    The first layer is the base. No ``private`` word may be in the image's configuration or history.
    """
    configuration = contents.configuration.get("config", {})
    if configuration.get("User", "") != user:
        yield f"it runs as {configuration.get('User') or 'root'}, not as {user or 'root'}"
    names = {each.partition("=")[0] for each in configuration.get("Env") or ()}
    if extra := sorted(names - _VARIABLES):
        yield f"its environment has {', '.join(extra)}, which a build machine may have set"
    for path in (path for layer in contents.layers for path in layer if _is_setting(path)):
        yield f"it has /{path}, a setting of a machine"
    if outside := [path for layer in contents.layers[1:] for path in layer if not path.startswith(f"{folder}/")]:
        yield f"its own layers have {len(outside)} files outside /{folder}, among them /{outside[0]}"
    if any(word in json.dumps(contents.configuration) for word in private):
        yield "its configuration or history names where this machine gets its packages"


def _is_setting(path: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in _SETTINGS) or (
        path in _APT or (path.startswith("etc/apt/apt.conf.d/") and "proxy" in path.lower())
    )
