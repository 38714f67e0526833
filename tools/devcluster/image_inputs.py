"""What an image is made of: the files of a checkout that go into it, and a digest of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

#: What tools leave in a source folder.
_LEFT_BEHIND = ("__pycache__", "*.egg-info")


@dataclass(frozen=True)
class ImageInputs:
    """A Dockerfile, the files and folders of a checkout that it copies, and what the image is to be."""

    dockerfile: str
    inputs: tuple[str, ...]
    version: str
    user: str
    folder: str = ""
    """All that the image adds to its base lies below it."""
    base: tuple[str, ...] = ()
    """How its base is made; empty: it has none."""
    space: int = 1
    """GB that a build needs, most of them for a while: the same files lie in a stage, in the image, in a layer."""

    def files(self, root: Path) -> list[Path]:
        """The files of the checkout at ``root`` that go into it, in a fixed order."""
        return files(root, (self.dockerfile, *self.inputs))

    def digest(self, root: Path) -> str:
        """12 hex digits over the recipe and those files."""
        recipe = asdict(self)
        del recipe["space"]  # makes no other image
        return digest(root, self.files(root), recipe)

    def copy(self, root: Path, target: Path) -> None:
        """Copy those files to ``target``, each to its own place."""
        copy(root, self.files(root), target)


def package(*names: str) -> tuple[str, ...]:
    """The inputs of a distribution of ours."""
    return tuple(f"{name}/{part}" for name in names for part in ("pyproject.toml", "src"))


def files(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The named files, and the files of the named folders, below ``root``, in a fixed order."""
    found = []
    for path in (root / name for name in names):
        found += [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sorted(path for path in found if not any(_is_left_behind(part) for part in path.relative_to(root).parents))


def digest(root: Path, paths: list[Path], recipe: object) -> str:
    """12 hex digits over ``recipe`` (JSON), the paths below ``root``, and what lies there."""
    found = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"\n{path.relative_to(root)} {content}".encode())
    return found.hexdigest()[:12]


def copy(root: Path, paths: list[Path], target: Path) -> None:
    """Copy files from below ``root`` to the same places below ``target``."""
    for path in paths:
        copied = target / path.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)


def _is_left_behind(folder: Path) -> bool:
    return any(folder.match(pattern) for pattern in _LEFT_BEHIND)
