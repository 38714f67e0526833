"""What lies in an image's archive, and what must not lie in it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Settings of a machine, wherever a build might have left them: of pip and uv, of certificates, of accounts.
_SETTINGS = ("etc/pip.conf", "etc/uv", "run/machine", "root/.cache", "root/.config", "root/.pip", "root/.netrc")
_APT = ("etc/apt/auth.conf", "etc/apt/apt.conf")
#: Of a base image, and of our Dockerfiles.
_VARIABLES = frozenset(("PATH", "LANG", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256", "PYTHONUNBUFFERED"))


@dataclass(frozen=True)
class Contents:
    """An image as its archive has it: its configuration, and per layer the paths of its files."""

    references: tuple[str, ...]
    configuration: dict[str, Any]
    layers: tuple[tuple[str, ...], ...]


def read(archive: Path) -> Contents:
    """Of a file as ``docker save`` writes it. Raises KeyError if it is none."""
    with tarfile.open(archive) as outer:

        def member(name: str) -> Any:
            return outer.extractfile(outer.getmember(name))

        (image,) = json.load(member("manifest.json"))
        layers = []
        for name in image["Layers"]:
            with tarfile.open(fileobj=member(name)) as layer:
                layers.append(tuple(each.name.removeprefix("./") for each in layer if not each.isdir()))
        return Contents(tuple(image["RepoTags"]), json.load(member(image["Config"])), tuple(layers))


def problems(contents: Contents, user: str, folder: str, private: Sequence[str] = ()) -> Iterator[str]:
    """What is wrong with an image that is to run as ``user`` and have, besides its base, only files below ``folder``.

    The base is its first layer. None of the ``private`` words may stand in its configuration or its history.
    """
    configuration = contents.configuration.get("config", {})
    if configuration.get("User", "") != user:
        yield f"it runs as {configuration.get('User') or 'root'}, not as {user or 'root'}"
    names = {each.partition("=")[0] for each in configuration.get("Env") or ()}
    if odd := sorted(names - _VARIABLES):
        yield f"its environment has {', '.join(odd)}, which a build machine may have set"
    for path in (path for layer in contents.layers for path in layer if _is_setting(path)):
        yield f"it has /{path}, a setting of a machine"
    if odd := [path for layer in contents.layers[1:] for path in layer if not path.startswith(f"{folder}/")]:
        yield f"its own layers have {len(odd)} files outside /{folder}, among them /{odd[0]}"
    if any(word in json.dumps(contents.configuration) for word in private):
        yield "its configuration or history names where this machine gets its packages"


def _is_setting(path: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in _SETTINGS) or (
        path in _APT or (path.startswith("etc/apt/apt.conf.d/") and "proxy" in path.lower())
    )
