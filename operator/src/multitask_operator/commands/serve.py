"""``mtm serve``: Triton and the gateway on what a run exported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from multitask_api.errors import UserError
from multitask_api.stages import NodeState, build
from multitask_api.stages.versions import VERSIONS
from multitask_operator.commands.console import run_command
from multitask_operator.local.model_file import device
from multitask_operator.local.processes import exec_module
from multitask_operator.local.promotion import UNVERIFIED, promoted_export
from multitask_operator.local.workdir import Workdir
from multitask_operator.planner import verdicts_of


def serve(folder: Path, arguments: Sequence[str]) -> int:
    """Replace this process by the server of what a run exported to ``folder``."""
    artifact = exported(folder)
    device_option: list[str] = []
    if artifact != folder.resolve():
        workdir = Workdir.existing(folder)
        if workdir.published.unverified:
            sys.stderr.write(f"warning: {UNVERIFIED}; {run_command(folder)}, without --no-serve, verifies it\n")
        if "--device" not in arguments:
            device_option = _device_of(workdir)
    return exec_module("multitask_serving.serve", "mtm serve", [str(artifact), *device_option, *arguments])


def exported(folder: Path) -> Path:
    """The artifact to serve: the current export of a work folder, or ``folder`` itself if it is an export."""
    if (folder / "routes.yaml").is_file():
        return folder.resolve()
    workdir = Workdir.existing(folder)
    current = workdir.published.current
    if current is None:
        raise UserError(f"{folder} has nothing to serve; {_missing_step(workdir, folder)}")
    return workdir.artifact(current)


def _missing_step(workdir: Workdir, folder: Path) -> str:
    """Why no export is served, and what to do about it."""
    planned = workdir.last_planned()
    name, manifests = planned.model.metadata.name, workdir.manifests()
    graph = build(name, planned.model.spec, planned.resolved, manifests, workdir.versions_of(name) or VERSIONS)
    if graph["export"].state is not NodeState.DONE:
        return f"finish {run_command(folder)} first"
    if promoted_export(graph) is None:
        verdicts = verdicts_of(graph).values()
        qualified = sum(verdict.verdict == "Qualified" for verdict in verdicts)
        return (
            f"its last run promoted no result, {qualified} of {len(verdicts)} tasks qualified: see `mtm report"
            f" {quote(str(folder))}` and spec.qualification"
        )
    verify = graph["verify"]
    failure = workdir.failure((verify.name, verify.digest)) if verify.digest else None
    if failure is not None:
        return f"its last export failed verify, see {workdir.log('verify')}; {run_command(folder)} verifies it again"
    return f"its last export is not verified; {run_command(folder)} verifies it"


def _device_of(workdir: Workdir) -> list[str]:
    """A model that trains on the CPU is served there too, because it was measured there."""
    trained_on = device(workdir.last_planned().model, "auto")
    return [] if trained_on == "auto" else ["--device", trained_on]
