"""Garbage: what lies in a work folder and no plan of its models uses."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from multitask_api.stages import ArtifactKey, artifact_filename, build
from multitask_operator.local.workdir import Workdir


@dataclass(frozen=True)
class Garbage:
    """What can go: artifacts and scratch folders, and the bytes that only they hold."""

    artifacts: tuple[ArtifactKey, ...]
    folders: tuple[Path, ...]
    bytes: int


def find(workdir: Workdir, forgotten: str | None = None) -> Garbage:
    """Look for garbage; the plan of the model ``forgotten`` keeps nothing.

    A stage whose digest is not known yet keeps all its artifacts: one may be used again.
    """
    manifests = workdir.manifests()
    used: set[ArtifactKey] = set()
    open_stages: set[str] = set()
    for name, planned in workdir.planned().items():
        if name == forgotten:
            continue
        graph = build(planned.model.metadata.name, planned.model.spec, planned.resolved, manifests)
        for node in graph.nodes:
            if node.digest is None:
                open_stages.add(node.name)
            else:
                used.add((node.name, node.digest))
    # What is served, and what is gone back to should the next export fail its check.
    published = (workdir.published.current, workdir.published.verified)
    kept = {key for key in _artifacts(workdir) if key in used or key[0] in open_stages or key in published}
    artifacts = tuple(sorted(set(_artifacts(workdir)) - kept))
    wanted = {artifact_filename(key) for key in used if key not in manifests}
    unknown = tuple(artifact_filename((stage, "")) for stage in open_stages)
    scratch = [
        path
        for path in _children(workdir.path / "work")
        if path.is_dir() and path.name not in wanted and not (unknown and path.name.startswith(unknown))
    ]
    folders = (*(workdir.artifact(key) for key in artifacts), *scratch)
    return Garbage(artifacts, folders, _bytes_of(folders))


def remove(workdir: Workdir, garbage: Garbage) -> None:
    """Remove it; a folder loses its manifest first, so that half of one is never taken for a result."""
    for folder in garbage.folders:
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    for key in garbage.artifacts:
        workdir.order(key).unlink(missing_ok=True)
        workdir.progress(key).unlink(missing_ok=True)
        for parent in workdir.artifact(key).parents:
            if parent == workdir.path / "stages" or _children(parent):
                break
            parent.rmdir()


def _artifacts(workdir: Workdir) -> list[ArtifactKey]:
    """Every artifact folder: with a manifest, or the debris of one (it is named by a digest)."""
    root = workdir.path / "stages"
    found = []
    for folder, below, files in os.walk(root):
        place = Path(folder)
        if "manifest.json" in files or (files and place != root):
            below.clear()
            found.append((place.parent.relative_to(root).as_posix(), place.name))
    return found


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _bytes_of(folders: Iterable[Path]) -> int:
    """Bytes that come free: a file with a hard link elsewhere frees nothing."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    seen = [path.stat() for path in files]
    here = Counter((item.st_dev, item.st_ino) for item in seen)
    going = {
        (item.st_dev, item.st_ino): item.st_size for item in seen if here[item.st_dev, item.st_ino] == item.st_nlink
    }
    return sum(going.values())
