"""``mtm run``: everything that is missing, then the table."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from types import FrameType

from multitask_api.report import Report
from multitask_api.stages import NodeState
from multitask_operator.commands.console import print_json, print_line, qualification
from multitask_operator.commands.plan import default_workdir
from multitask_operator.commands.progress import LineView, view_for_terminal
from multitask_operator.local import capacity, model_file, processes
from multitask_operator.local.executor import Executor, RunResult
from multitask_operator.local.promotion import UNVERIFIED, promoted_export
from multitask_operator.local.workdir import PlannedModel, Workdir, write
from multitask_operator.planner import Failed
from multitask_operator.report.build import build_report

OK, FAILED, INTERRUPTED = 0, 1, 130


class Interrupt:
    """Set by the first Ctrl-C or SIGTERM; the second one ends the process at once."""

    def __init__(self) -> None:
        self._set = False

    def __call__(self) -> bool:
        return self._set

    def notice(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self._set:
            raise KeyboardInterrupt
        self._set = True

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM while entered."""
        before = {number: signal.signal(number, self.notice) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(
    file: Path,
    workdir: Path | None,
    *,
    serve: bool,
    as_json: bool,
    device: str = "auto",
    launcher: processes.Launcher | None = None,
) -> int:
    """Run what is missing of ``file``; see ``mtm run --help`` for the exit statuses."""
    model = model_file.load(file)
    place = Workdir(workdir or default_workdir(model))
    view = view_for_terminal()
    interrupt = Interrupt()
    with place.locked():
        left = processes.kill_orphans(place.path)
        if left:
            view.line(f"ended {left} processes that an earlier run had left behind")
        root = model_file.data_root(file)
        resolved = model_file.resolve(model, root, place)
        place.remember(PlannedModel(model=model, resolved=resolved))
        executor = Executor(
            workdir=place,
            model=model,
            resolved=resolved,
            data_root=root,
            capacity=capacity.capacity(model_file.processes_allowed(model)),
            view=view,
            launcher=launcher or processes.ModuleLauncher(),
            serve=serve,
            interrupted=interrupt,
            device=model_file.device(model, device),
        )
        with interrupt.caught(), view.live():
            ended = executor.run()
        processes.kill_orphans(place.path)
        report = build_report(model, ended.plan.graph, ended.ran)
        write_report(place, report, whole=ended.plan.graph.finished)
    status = INTERRUPTED if ended.interrupted else OK if ended.plan.graph.finished else FAILED
    if as_json:
        print_json({"exitStatus": status, "report": report.model_dump(mode="json", by_alias=True), **_failures(ended)})
    else:
        _conclude(ended, report, place, view)
    return status


def write_report(place: Workdir, report: Report, *, whole: bool) -> None:
    """report.json, and the page made from it; of a run that is not done report.partial.json and its page."""
    from multitask_operator.report.html import render

    data, page = (place.report, place.report_page) if whole else place.partial_report
    write(data, report.model_dump_json(by_alias=True, indent=1))
    write(page, render(report))
    if whole:
        for path in place.partial_report:
            path.unlink(missing_ok=True)


def _conclude(ended: RunResult, report: Report, place: Workdir, view: LineView) -> None:
    if not ended.plan.graph.finished:
        view.line(f"so far: {place.partial_report[1]}")
        if place.report_page.exists():
            view.line(f"the report of the last run that was done stays: {place.report_page}")
    if ended.interrupted:
        view.line("interrupted; run the same command again to go on where it stopped")
        return
    if report.revision is not None:
        qualification(report)
    for failed in ended.plan.failed:
        sys.stderr.write(_failure_text(failed))
    if not ended.plan.graph.finished:
        left = [node.name for node in ended.plan.graph.nodes if node.state in (NodeState.READY, NodeState.WAITING)]
        view.line(f"{len(left)} stages are left: {', '.join(left[:5])}{' …' if len(left) > 5 else ''}")
        if any(failed.failure.stage == "verify" for failed in ended.plan.failed):
            view.line(_what_serves(ended, report, place))
        return
    ran = len(ended.ran)
    print_line(
        f"{ran} stages ran, {len(ended.plan.graph.nodes) - ran} were there already"
        if ran
        else "all stages were there already"
    )
    if report.serving is not None:
        said = report.serving
        print_line(
            f"served = measured: {said.compared:,} answers compared, {said.equal:,} equal, {said.near_ties} near ties,"
            f" {said.different} different"
        )
    for warning in (*report.warnings, *(text for group in report.groups for text in group.warnings)):
        print_line(f"warning: {warning}")
    print_line(f"report: {place.report_page}")
    print_line(_what_serves(ended, report, place))


def _what_serves(ended: RunResult, report: Report, place: Workdir) -> str:
    serve = f"mtm serve {quote(str(_short(place.path)))}"
    export, now = promoted_export(ended.plan.graph), place.published
    if export is not None and now.current == export:
        warning = f"\nwarning: {UNVERIFIED}; run without --no-serve to do that" if now.unverified else ""
        return f"serve:  {serve}{warning}"
    why = (
        f"no new revision was promoted, {report.qualified} of {report.total} tasks qualified"
        if export is None
        else f"the new export failed verify, see {place.log('verify')}"
    )
    return f"{why}; `{serve}` goes on with the one before" if now.current else f"nothing to serve: {why}"


def _failure_text(failed: Failed) -> str:
    failure = failed.failure
    then = {
        "UserError": "repair what it names, then run the same command again",
        "Retryable": f"it failed {failed.attempts} times; when the cause is gone, run the same command again",
        "Fault": "the log has the details; run the same command again to go on from the last checkpoint",
    }[failure.kind]
    return f"error: stage {failure.stage} failed: {failure.message}\n  log:  {failed.log}\n  next: {then}\n"


def _failures(ended: RunResult) -> dict[str, object]:
    return {"failed": [item.failure.to_json() | {"log": item.log} for item in ended.plan.failed]}


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
