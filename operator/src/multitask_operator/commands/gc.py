"""``mtm gc``: removes the artifacts of a work folder that no plan uses."""

from __future__ import annotations

from pathlib import Path

from multitask_api.errors import UserError
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.formatting import size
from multitask_operator.local.gc import find_unused, remove
from multitask_operator.local.workdir import Workdir


def gc(folder: Path, *, dry_run: bool, forget: str | None, as_json: bool) -> int:
    """Remove what no plan uses, or with ``dry_run`` only list it. ``forget``: the model whose plan is deleted first."""
    workdir = Workdir.existing(folder)
    with workdir.locked():
        plan_file = _plan_file(workdir, forget) if forget is not None else None
        unused = find_unused(workdir, without_model=forget)
        if not dry_run:
            if plan_file is not None:
                plan_file.unlink()
            remove(workdir, unused)
    if as_json:
        names = [f"{stage}/{digest}" for stage, digest in unused.artifacts]
        print_json({"removed": not dry_run, "artifacts": names, "folders": len(unused.folders), "bytes": unused.bytes})
        return 0
    for path in unused.folders:
        print_line(f"{'would remove' if dry_run else 'removed'} {path.relative_to(workdir.path)}")
    print_line(f"{size(unused.bytes)} {'would be ' if dry_run else ''}freed" if unused.folders else "nothing to remove")
    return 0


def _plan_file(workdir: Workdir, model: str) -> Path:
    path = workdir.path / "models" / f"{model}.json"
    if not path.is_file():
        names = ", ".join(workdir.planned_models()) or "none"
        raise UserError(f"no model {model!r} uses {workdir.path}; models that do: {names}")
    return path
