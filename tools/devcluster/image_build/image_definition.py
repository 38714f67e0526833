"""The definition of an image: its Dockerfile, the files of a checkout that it copies, and a digest of both."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

#: What tools write into source folders.
_TOOL_OUTPUT = ("__pycache__", "*.egg-info")


@dataclass(frozen=True)
class ImageDefinition:
    """A Dockerfile, the files and folders of a checkout that it copies, and what the image must be.

    All fields but ``space`` enter the digest, with their names.
    """

    dockerfile: str
    inputs: tuple[str, ...]
    version: str
    user: str
    folder: str = ""
    """The image adds files to its base below this folder only; empty: none."""
    base: tuple[str, ...] = ()
    """The command that builds its base image's file system; empty: no base."""
    space: int = 1
    """GB of disk that a build needs for a while: it has the same files in a stage, in the image and in a layer."""

    def files(self, root: Path) -> list[Path]:
        """The files of the checkout at ``root`` that the image is built from, in a fixed order."""
        return files(root, (self.dockerfile, *self.inputs))

    def digest(self, root: Path) -> str:
        """12 hex digits over the definition and those files."""
        definition = asdict(self)
        del definition["space"]  # does not change the image
        return digest(root, self.files(root), definition)

    def copy(self, root: Path, target: Path) -> None:
        """Copy those files to the same relative paths below ``target``."""
        copy(root, self.files(root), target)


def package(*names: str) -> tuple[str, ...]:
    """The inputs of our distributions ``names``."""
    return tuple(f"{name}/{part}" for name in names for part in ("pyproject.toml", "src"))


def files(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The named files, and the files of the named folders, below ``root``, in a fixed order."""
    selected = []
    for path in (root / name for name in names):
        selected += [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sorted(
        path for path in selected if not any(_is_tool_output(part) for part in path.relative_to(root).parents)
    )


def digest(root: Path, paths: list[Path], definition: object) -> str:
    """12 hex digits over ``definition`` (as JSON), the paths relative to ``root``, and the content of the files."""
    sha = hashlib.sha256(json.dumps(definition, sort_keys=True).encode())
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        sha.update(f"\n{path.relative_to(root)} {content}".encode())
    return sha.hexdigest()[:12]


def copy(root: Path, paths: list[Path], target: Path) -> None:
    """Copy files below ``root`` to the same relative paths below ``target``."""
    for path in paths:
        copied = target / path.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)


def _is_tool_output(folder: Path) -> bool:
    return any(folder.match(pattern) for pattern in _TOOL_OUTPUT)
