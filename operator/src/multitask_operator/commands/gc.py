"""``mtm gc``: removes the artifacts of a work folder that no plan uses."""

from __future__ import annotations

from pathlib import Path

from multitask_api.errors import UserError
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.formatting import size
from multitask_operator.local.gc import find_unused, remove
from multitask_operator.local.workdir import Workdir
from multitask_operator.study.spec import is_run


def gc(folder: Path, *, dry_run: bool, forget: str | None, as_json: bool) -> int:
    """Remove what no plan uses, or with ``dry_run`` only list it.

    ``forget``: the model whose plan is deleted first, or the study whose runs' plans are.
    """
    workdir = Workdir.existing(folder)
    with workdir.locked():
        forgotten = _forgotten(workdir, forget) if forget is not None else []
        unused = find_unused(workdir, without_models=forgotten)
        if not dry_run:
            for name in forgotten:
                workdir.forget_model(name)
            remove(workdir, unused)
    if as_json:
        names = [f"{stage}/{digest}" for stage, digest in unused.artifacts]
        print_json({"removed": not dry_run, "artifacts": names, "folders": len(unused.folders), "bytes": unused.bytes})
        return 0
    for path in unused.folders:
        print_line(f"{'would remove' if dry_run else 'removed'} {path.relative_to(workdir.path)}")
    print_line(f"{size(unused.bytes)} {'would be ' if dry_run else ''}freed" if unused.folders else "nothing to remove")
    return 0


def _forgotten(workdir: Workdir, forget: str) -> list[str]:
    """The model of that name, or else the runs of the study."""
    names = [path.stem for path in workdir.model_files()]
    forgotten = [forget] if forget in names else [name for name in names if is_run(name, of=forget)]
    if not forgotten:
        raise UserError(f"no model {forget!r} uses {workdir.path}; models that do: {', '.join(names) or 'none'}")
    return forgotten
