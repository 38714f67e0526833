"""``mtm serve``, ``predict``, ``report`` and ``gc``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from pydantic import ValidationError

from multitask_api.errors import UserError
from multitask_api.report import Report
from multitask_api.stages import NodeState, build
from multitask_operator.commands.console import print_json, print_line, qualification
from multitask_operator.formatting import size
from multitask_operator.local import gc as collector
from multitask_operator.local.model_file import device
from multitask_operator.local.promotion import UNVERIFIED, promoted_export
from multitask_operator.local.workdir import Workdir, write
from multitask_operator.planner import verdicts_of


def exec_module(module: str, name: str, arguments: Sequence[str]) -> int:
    """Replace this process by ``python -m module``: signals, output and exit status are the program's own.

    It calls itself ``name`` in its help and errors.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], {**os.environ, "MTM_PROGRAM": name})


def serve(folder: Path, arguments: Sequence[str]) -> int:
    """Triton and the gateway on what a run exported to ``folder``."""
    artifact = exported(folder)
    chosen: list[str] = []
    if artifact != folder.resolve():
        place = Workdir.existing(folder)
        if place.published.unverified:
            sys.stderr.write(f"warning: {UNVERIFIED}; {_run(folder)}, without --no-serve, does that\n")
        if "--device" not in arguments:
            chosen = _device_of(place)
    return exec_module("multitask_serving.serve", "mtm serve", [str(artifact), *chosen, *arguments])


def exported(folder: Path) -> Path:
    """The artifact to serve: of a work folder, or an exported artifact itself."""
    if (folder / "routes.yaml").is_file():
        return folder.resolve()
    place = Workdir.existing(folder)
    current = place.published.current
    if current is None:
        raise UserError(f"{folder} has nothing to serve; {_what_lacks(place, folder)}")
    return place.artifact(current)


def _what_lacks(place: Workdir, folder: Path) -> str:
    planned = place.last_planned()
    graph = build(planned.model.metadata.name, planned.model.spec, planned.resolved, place.manifests())
    if graph["export"].state is not NodeState.DONE:
        return f"{_run(folder)} has to end first"
    if promoted_export(graph) is None:
        verdicts = verdicts_of(graph).values()
        qualified = sum(verdict.verdict == "Qualified" for verdict in verdicts)
        return (
            f"its last run promoted no revision, {qualified} of {len(verdicts)} tasks qualified: `mtm report"
            f" {quote(str(folder))}` says more, and spec.qualification decides"
        )
    verify = graph["verify"]
    failure = place.failure((verify.name, verify.digest)) if verify.digest else None
    if failure is not None:
        return f"its last export failed verify, read {place.log('verify')}; {_run(folder)} verifies it once more"
    return f"its last export is not verified; {_run(folder)} does that"


def _run(folder: Path) -> str:
    return f"`mtm run FILE --workdir {quote(str(folder))}`"


def _device_of(place: Workdir) -> list[str]:
    """A model that the file trains on the CPU is served there too: it was measured there."""
    wanted = device(place.last_planned().model, "auto")
    return [] if wanted == "auto" else ["--device", wanted]


def predict(arguments: Sequence[str]) -> int:
    """Ask a gateway."""
    return exec_module("multitask_serving.predict", "mtm predict", arguments)


def report(folder: Path, *, as_json: bool) -> int:
    """report.json → report.html."""
    from multitask_operator.report.html import render

    place = Workdir.existing(folder)
    partial = place.partial_report[1]
    so_far = partial.exists()
    try:
        found = Report.model_validate_json(place.report.read_bytes())
    except FileNotFoundError as error:
        known = f"; what is known so far: {partial}" if so_far else ""
        raise UserError(f"{folder} has no report.json yet; {_run(folder)} writes it when all is done{known}") from error
    except ValidationError as error:
        raise UserError(
            f"{place.report} is not a report of this version; run the model again to write it anew"
        ) from error
    write(place.report_page, render(found))
    if as_json:
        print_json(found.model_dump(mode="json", by_alias=True))
        return 0
    qualification(found)
    print_line(f"report: {place.report_page}")
    if so_far:
        print_line(f"a later run is not done; what is known of it: {partial}")
    return 0


def gc(folder: Path, *, dry_run: bool, forget: str | None, as_json: bool) -> int:
    """Remove what no plan uses; say what that frees."""
    place = Workdir.existing(folder)
    with place.locked():
        plan = _plan_of(place, forget) if forget is not None else None
        garbage = collector.find(place, forgotten=forget)
        if not dry_run:
            if plan is not None:
                plan.unlink()
            collector.remove(place, garbage)
    if as_json:
        names = [f"{stage}/{digest}" for stage, digest in garbage.artifacts]
        print_json(
            {"removed": not dry_run, "artifacts": names, "folders": len(garbage.folders), "bytes": garbage.bytes}
        )
        return 0
    for folder_ in garbage.folders:
        print_line(f"{'would remove' if dry_run else 'removed'} {folder_.relative_to(place.path)}")
    print_line(
        f"{size(garbage.bytes)} {'would be ' if dry_run else ''}freed" if garbage.folders else "nothing to remove"
    )
    return 0


def _plan_of(place: Workdir, name: str) -> Path:
    path = place.path / "models" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(place.planned()) or "none"
        raise UserError(f"no model {name!r} uses {place.path}; models that do: {known}")
    return path
