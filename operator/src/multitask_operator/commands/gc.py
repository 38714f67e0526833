"""``mtm gc``: removes the artifacts of a work folder that no plan uses."""

from __future__ import annotations

from pathlib import Path

from multitask_api.errors import UserError
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.formatting import size
from multitask_operator.local.gc import find_unused, remove
from multitask_operator.local.workdir import Workdir
from multitask_operator.study.names import is_run_of


def gc(folder: Path, *, dry_run: bool, forget: str | None, as_json: bool) -> int:
    """Remove what no plan uses, or with ``dry_run`` only list it.

    ``forget``: the model whose plan is deleted first, or the study whose runs' plans are.
    """
    workdir = Workdir.existing(folder)
    with workdir.locked():
        forgotten = _plan_files(workdir, forget) if forget is not None else []
        unused = find_unused(workdir, without_models=[path.stem for path in forgotten])
        if not dry_run:
            for path in forgotten:
                path.unlink()
            remove(workdir, unused)
    if as_json:
        names = [f"{stage}/{digest}" for stage, digest in unused.artifacts]
        print_json({"removed": not dry_run, "artifacts": names, "folders": len(unused.folders), "bytes": unused.bytes})
        return 0
    for path in unused.folders:
        print_line(f"{'would remove' if dry_run else 'removed'} {path.relative_to(workdir.path)}")
    print_line(f"{size(unused.bytes)} {'would be ' if dry_run else ''}freed" if unused.folders else "nothing to remove")
    return 0


def _plan_files(workdir: Workdir, name: str) -> list[Path]:
    folder = workdir.path / "models"
    files = [path for path in (folder / f"{name}.json",) if path.is_file()]
    files = files or [path for path in sorted(folder.glob("*.json")) if is_run_of(name, path.stem)]
    if not files:
        names = ", ".join(workdir.planned_models()) or "none"
        raise UserError(f"no model {name!r} uses {workdir.path}; models that do: {names}")
    return files
