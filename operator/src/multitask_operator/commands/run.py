"""``mtm run``: runs the stages that are missing, then shows the table of results."""

from __future__ import annotations

import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from types import FrameType

from multitask_api.errors import UserError
from multitask_api.machine.gpus import gpu_count
from multitask_api.report import Report
from multitask_api.stages import NodeState
from multitask_api.stages.versions import Versions
from multitask_operator.commands import FAILED, INTERRUPTED, OK
from multitask_operator.commands.console import diagnoses, print_json, print_line, qualification, starts, warnings
from multitask_operator.commands.plan import default_workdir
from multitask_operator.commands.progress import LineView, view_for_terminal
from multitask_operator.commands.report import write_report
from multitask_operator.formatting import counted
from multitask_operator.local import capacity, fork_launcher, model_file, processes, release
from multitask_operator.local.executor import Executor, RunResult
from multitask_operator.local.promotion import UNVERIFIED, promoted_export
from multitask_operator.local.speed import remember_speeds
from multitask_operator.local.workdir import PlannedModel, Workdir
from multitask_operator.planner import Failed
from multitask_operator.planner.estimate import measured_speeds
from multitask_operator.report.build import build_report


class Interrupt:
    """Whether Ctrl-C or SIGTERM has asked to stop. The second signal ends the process at once."""

    def __init__(self) -> None:
        self._requested = False

    def __call__(self) -> bool:
        return self._requested

    def request(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of both signals."""
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM while entered."""
        previous = {number: signal.signal(number, self.request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def run(
    file: Path,
    workdir: Path | None,
    *,
    serve: bool,
    as_json: bool,
    refresh: bool = False,
    device: str = "auto",
    launcher: processes.Launcher | None = None,
) -> int:
    """Run the stages of ``file`` that are missing; see ``mtm run --help`` for the exit statuses."""
    if device == "cuda" and not gpu_count():
        raise UserError("--device cuda: this machine has no NVIDIA GPU that this process can use; use cpu or auto")
    model = model_file.load(file)
    folder = Workdir(workdir or default_workdir(file, model))
    view = view_for_terminal()
    interrupt = Interrupt()
    with folder.locked(), ExitStack() as stack:
        orphans = processes.kill_orphans(folder.path)
        if orphans:
            view.line(f"killed {orphans} processes that an earlier run left running")
        root = model_file.data_root(file)
        resolved = model_file.resolve(model, root, folder)
        recorded = folder.versions_of(model.metadata.name)
        versions = release.versions_of_run(model, resolved, folder, refresh=refresh)
        for note in release.adoption_notes(recorded, versions):
            view.line(f"note: {note}")
        folder.save_plan(PlannedModel(model=model, resolved=resolved), versions)
        executor = Executor(
            workdir=folder,
            model=model,
            resolved=resolved,
            versions=versions,
            data_root=root,
            capacity=capacity.capacity(model_file.processes_allowed(model), device=model_file.device(model, device)),
            view=view,
            launcher=launcher or stack.enter_context(fork_launcher.stage_launcher(has_gpu=gpu_count() > 0)),
            serve=serve,
            interrupted=interrupt,
            device=model_file.device(model, device),
        )
        with interrupt.caught(), view.live():
            result = executor.run()
        processes.kill_orphans(folder.path)
        ran = [node for node in result.plan.graph.nodes if node.name in result.stage_seconds]
        remember_speeds(model, model_file.device(model, device), measured_speeds(ran, platform.node()))
        report = build_report(model, result.plan.graph, result.stage_seconds, time.time())
        write_report(folder, report, complete=result.plan.graph.finished)
    status = INTERRUPTED if result.interrupted else OK if result.plan.graph.finished else FAILED
    if as_json:
        print_json({"exitStatus": status, "report": report.model_dump(mode="json", by_alias=True), **_failures(result)})
    else:
        _conclude(result, report, folder, versions, view)
    return status


def _conclude(result: RunResult, report: Report, workdir: Workdir, versions: Versions, view: LineView) -> None:
    """Print how the run ended, and what to do next."""
    graph = result.plan.graph
    if not graph.finished:
        view.line(f"partial report: {workdir.partial_report[1]}")
        if workdir.report_page.exists():
            view.line(f"the report of the last run that finished is kept: {workdir.report_page}")
    if result.interrupted:
        view.line("interrupted; run the same command again to continue")
        return
    if report.revision is not None:
        qualification(report)
    for failed in result.plan.failed:
        sys.stderr.write(_failure_text(failed))
    if not graph.finished:
        remaining = [node.name for node in graph.nodes if node.state in (NodeState.READY, NodeState.WAITING)]
        view.line(f"{len(remaining)} stages remain: {', '.join(remaining[:5])}{' …' if len(remaining) > 5 else ''}")
        if any(failed.failure.stage == "verify" for failed in result.plan.failed):
            view.line(_serve_text(result, report, workdir))
        return
    for note in release.release_notes(versions):
        print_line(f"note: {note}")
    ran = len(result.stage_seconds)
    skipped = [node for node in graph.nodes if node.state is NodeState.SKIPPED]
    cached = len(graph.nodes) - ran - len(skipped)
    counts = f"{counted(ran, 'stage')} ran, {cached} cached" if ran else "all stages were cached"
    print_line(f"{counts}, {len(skipped)} skipped" if skipped else counts)
    for node in skipped:
        print_line(f"skipped: {node.name}: {node.reason}")
    if report.serving is not None:
        serving = report.serving
        print_line(
            f"served answers: {serving.compared:,} compared with the measured ones, {serving.equal:,} equal,"
            f" {serving.near_ties} near ties, {serving.different} different"
        )
    starts(report)
    diagnoses(report)
    warnings(report)
    print_line(f"report: {workdir.report_page}")
    print_line(_serve_text(result, report, workdir))


def _serve_text(result: RunResult, report: Report, workdir: Workdir) -> str:
    """How to serve what this run exported, or why the export before it or none is served."""
    serve = f"mtm serve {quote(str(_short(workdir.path)))}"
    export, published = promoted_export(result.plan.graph), workdir.published
    if export is not None and published.current == export:
        warning = f"\nwarning: {UNVERIFIED}; run without --no-serve to verify it" if published.unverified else ""
        return f"serve:  {serve}{warning}"
    reason = (
        f"no new result was promoted, {report.qualified} of {report.total} tasks qualified"
        if export is None
        else f"the new export failed verify, see {workdir.log('verify')}"
    )
    return f"{reason}; `{serve}` still serves the one before" if published.current else f"nothing to serve: {reason}"


def _failure_text(failed: Failed) -> str:
    failure = failed.failure
    next_step = {
        "UserError": "correct what the message names, then run the same command again",
        "Retryable": f"it failed {failed.attempts} times; when the cause is gone, run the same command again",
        "Fault": "the log has the details; run the same command again to continue from the last checkpoint",
    }[failure.kind]
    return f"error: stage {failure.stage} failed: {failure.message}\n  log:  {failed.log}\n  next: {next_step}\n"


def _failures(result: RunResult) -> dict[str, object]:
    return {"failed": [item.failure.to_json() | {"log": item.log} for item in result.plan.failed]}


def _short(path: Path) -> Path:
    """``path`` relative to the current folder, if it lies in it."""
    current = Path.cwd()
    return path.relative_to(current) if path.is_relative_to(current) else path
