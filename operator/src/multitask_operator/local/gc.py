"""Garbage collection: artifacts and scratch folders of a work folder that no plan of its models uses."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from multitask_api.stage_io.manifest import ROWS_FOLDER
from multitask_api.stages import ArtifactKey, artifact_filename, build
from multitask_api.stages.versions import VERSIONS
from multitask_operator.local.exports import exported_results
from multitask_operator.local.workdir import Workdir
from multitask_operator.planner import UsedResults
from multitask_operator.study.graphs import part_of_study
from multitask_operator.study.spec import is_run


@dataclass(frozen=True)
class UnusedFiles:
    """What can be removed: artifacts, all folders (of artifacts and of scratch data), and the bytes that this frees."""

    artifacts: tuple[ArtifactKey, ...]
    folders: tuple[Path, ...]
    bytes: int


def find_unused(workdir: Workdir, without_models: Collection[str] = ()) -> UnusedFiles:
    """What no plan uses. The plans of ``without_models`` are left out: what only they use counts as unused.

    A stage whose digest is not known yet keeps all its artifacts: one of them may be used again.
    """
    manifests = workdir.manifests()
    used: set[ArtifactKey] = set()
    unfinished: set[ArtifactKey] = set()
    open_stages: set[str] = set()
    open_kinds: set[str] = set()
    for name, planned in workdir.planned_models().items():
        if name in without_models:
            continue
        versions = workdir.versions_of(name) or VERSIONS
        graph = build(planned.model.metadata.name, planned.model.spec, planned.resolved, manifests, versions)
        if is_run(name):  # it is never exported or verified: it waits for no result of these stages
            graph = part_of_study(graph, planned.model)
        of_plan = UsedResults.of(graph)
        used |= of_plan.keys
        unfinished |= of_plan.unfinished
        open_stages |= of_plan.open_stages
        open_kinds |= of_plan.open_kinds
    # The export that is served, the one that is served again if the next fails verify, and bases of other engines.
    pointed_to = {workdir.published.current, workdir.published.verified} | exported_results(workdir)
    planned_results = UsedResults(frozenset(used), frozenset(unfinished), frozenset(open_stages), frozenset(open_kinds))
    kept = {key for key in _artifacts(workdir) if planned_results.uses(key) or key in pointed_to}
    artifacts = tuple(sorted(set(_artifacts(workdir)) - kept))
    unfinished_names, used_names = ({artifact_filename(key) for key in keys} for keys in (unfinished, used))
    unresolved = tuple(artifact_filename((stage, "")) for stage in open_stages)
    unresolved += tuple(artifact_filename((f"{kind}/", ""))[:-1] for kind in open_kinds)
    work = workdir.path / "work"
    names = [(path, unfinished_names | {ROWS_FOLDER}) for path in _entries(work)]
    names += [(path, used_names) for path in _entries(work / ROWS_FOLDER)]
    scratch = [
        path
        for path, kept_names in names
        if path.is_dir() and path.name not in kept_names and not path.name.startswith(unresolved)
    ]
    folders = (*(workdir.artifact(key) for key in artifacts), *scratch)
    return UnusedFiles(artifacts, folders, _bytes_freed(folders))


def remove(workdir: Workdir, unused: UnusedFiles) -> None:
    """Remove it, the manifests first, so that a half-removed folder is never taken for a result."""
    for folder in unused.folders:
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    for key in unused.artifacts:
        workdir.order(key).unlink(missing_ok=True)
        workdir.progress(key).unlink(missing_ok=True)
        for parent in workdir.artifact(key).parents:
            if parent == workdir.path / "stages" or not parent.is_dir() or _entries(parent):
                break
            parent.rmdir()


def _artifacts(workdir: Workdir) -> list[ArtifactKey]:
    """Every artifact folder, also one that has files and no manifest: a stage did not finish it."""
    root = workdir.path / "stages"
    keys = []
    for name, subfolders, files in os.walk(root):
        folder = Path(name)
        if "manifest.json" in files or (files and folder != root):
            subfolders.clear()
            keys.append((folder.parent.relative_to(root).as_posix(), folder.name))
    return keys


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _bytes_freed(folders: Iterable[Path]) -> int:
    """Bytes that removing ``folders`` frees: a file with a hard link elsewhere frees nothing."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    stats = [path.stat() for path in files]
    links = Counter((stat.st_dev, stat.st_ino) for stat in stats)
    sizes = {
        (stat.st_dev, stat.st_ino): stat.st_size for stat in stats if links[stat.st_dev, stat.st_ino] == stat.st_nlink
    }
    return sum(sizes.values())
