"""``mtm export``: the adapters of what a run exported, as files that other engines take."""

from __future__ import annotations

from pathlib import Path

from multitask_operator.commands.serve import exported
from multitask_operator.local.exports import record_export
from multitask_operator.local.processes import exec_module


def export(folder: Path, target: str, out: Path, base: str | None) -> int:
    """Replace this process by the program that writes what a run exported to ``folder`` into ``out`` for ``target``."""
    artifact = exported(folder)
    arguments = [str(artifact), "--to", target, "--out", str(out)]
    if base is None:
        record_export(artifact, out)
    else:
        arguments += ["--base", base]
    return exec_module("multitask_trainer.adapter_export", "mtm export", arguments)
