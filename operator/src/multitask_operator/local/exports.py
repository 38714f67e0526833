"""Exports to other engines that load their base from a work folder: `gc` keeps it as long as they are there."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from multitask_api.stages import ArtifactKey
from multitask_operator.local.workdir import Workdir, write_atomically


def record_export(artifact: Path, out: Path) -> None:
    """Note that files below ``out`` point to the base in ``artifact``; nothing if that is in no work folder."""
    if len(artifact.parents) < 3:
        return
    _, stages, root = artifact.parents[:3]
    workdir = Workdir(root)
    if not workdir.is_planned or stages != workdir.path / "stages":
        return
    folders = _read(workdir)
    folders.setdefault(artifact.relative_to(stages).as_posix(), []).append(str(out.resolve()))
    unique = {name: sorted(set(paths)) for name, paths in folders.items()}
    with suppress(PermissionError):  # then nothing can be removed either
        write_atomically(_file(workdir), json.dumps(unique, indent=1, sort_keys=True))


def exported_results(workdir: Workdir) -> frozenset[ArtifactKey]:
    """The results of which an export exists that points to them."""
    found = (name for name, folders in _read(workdir).items() if any(Path(folder).is_dir() for folder in folders))
    return frozenset((name.rpartition("/")[0], name.rpartition("/")[2]) for name in found)


def _read(workdir: Workdir) -> dict[str, list[str]]:
    try:
        content: dict[str, list[str]] = json.loads(_file(workdir).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return content


def _file(workdir: Workdir) -> Path:
    return workdir.path / "exports.json"
