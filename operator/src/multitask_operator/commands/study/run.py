"""``mtm study``: runs the arms of a study at equal cost, and writes a page of what the differences support."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shlex import join

from multitask_api.errors import UserError
from multitask_api.machine.gpus import gpu_count
from multitask_api.stages.versions import VERSIONS
from multitask_operator.commands import FAILED, INTERRUPTED, OK
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.commands.progress import view_for_terminal
from multitask_operator.commands.run import Interrupt
from multitask_operator.commands.study.loading import LoadedStudy, ResolvedRuns, load
from multitask_operator.local import capacity, fork_launcher, model_file, processes
from multitask_operator.local.speed import remember_speeds
from multitask_operator.local.study_executor import StudyExecutor
from multitask_operator.local.workdir import PlannedModel, Workdir, write_atomically
from multitask_operator.planner.estimate import measured_speeds
from multitask_operator.study import page
from multitask_operator.study.arms import at_equal_cost
from multitask_operator.study.build import build_study_report
from multitask_operator.study.report import StudyReport
from multitask_operator.study.spec import is_run, run_name


def study(
    file: Path,
    workdir: Path | None,
    *,
    as_json: bool,
    device: str = "auto",
    options: Sequence[str] = (),
    launcher: processes.Launcher | None = None,
) -> int:
    """Run what is missing of the study in ``file``; see ``mtm study --help`` for the exit statuses.

    ``options``: those of the command line that the next call needs too.
    """
    if device == "cuda" and not gpu_count():
        raise UserError("--device cuda: this machine has no NVIDIA GPU that this process can use; use cpu or auto")
    loaded = load(file)
    folder, view, interrupt = loaded.workdir(workdir), view_for_terminal(), Interrupt()
    with folder.locked(), ExitStack() as stack:
        if orphans := processes.kill_orphans(folder.path):
            view.line(f"killed {orphans} processes that an earlier run left running")
        runs = loaded.resolved(folder)
        executor = StudyExecutor(
            workdir=folder,
            model=loaded.model,
            resolved=runs[0][1],
            versions=VERSIONS,
            data_root=loaded.data_root,
            capacity=capacity.capacity(
                model_file.processes_allowed(loaded.model), device=model_file.device(loaded.model, device)
            ),
            view=view,
            launcher=launcher or stack.enter_context(fork_launcher.stage_launcher(has_gpu=gpu_count() > 0)),
            serve=False,
            interrupted=interrupt,
            device=model_file.device(loaded.model, device),
            runs=runs,
            total_steps=loaded.total_steps,
            steps_known=lambda steps: record_runs(folder, loaded, runs, steps),
        )
        before = frozenset(executor.graphs.done_nodes())
        record_runs(folder, loaded, runs, executor.graphs.total_steps)
        with interrupt.caught(), view.live():
            result = executor.run()
        processes.kill_orphans(folder.path)
        graphs = executor.graphs
        new = [node for key, node in graphs.done_nodes().items() if key not in before]
        remember_speeds(loaded.model, executor.device, measured_speeds(new, platform.node()))
        report = build_study_report(
            loaded.name, loaded.model, graphs, result.plan.failed, before=before, now=time.time()
        )
        path = _write_pages(folder, report)
    status = INTERRUPTED if result.interrupted else OK if graphs.finished else FAILED
    if as_json:
        print_json({"exitStatus": status, "report": report.model_dump(mode="json", by_alias=True)})
    else:
        _conclude(report, path)
        if status != OK:
            when = "interrupted" if result.interrupted else "not finished; when the cause is mended"
            sys.stderr.write(f"{when}, run again: {join(['mtm', 'study', str(file), *options])}\n")
    return status


def record_runs(workdir: Workdir, loaded: LoadedStudy, runs: ResolvedRuns, total_steps: int | None) -> None:
    """Record every run as a model that uses the folder, and no other run of the study, for `mtm gc`."""
    if not workdir.is_planned:  # `mtm run` alone records the model itself: what it needs beyond the runs is not here
        workdir.save_last(PlannedModel(model=loaded.model, resolved=runs[0][1]))
    arms = list(dict.fromkeys(run.arm.name for run, _ in runs))
    planned = {
        run_name(loaded.name, arms.index(run.arm.name) + 1, run.seed): (run.model(total_steps), resolved)
        for run, resolved in runs
    }
    if loaded.total_steps is None and total_steps is not None:
        first, resolved = runs[0]  # the total follows from its filter stage without one
        planned[run_name(loaded.name, 0, first.seed)] = (at_equal_cost(first.arm.model, first.seed, None), resolved)
    for name, (model, resolved) in planned.items():
        named = model.model_copy(update={"metadata": model.metadata.model_copy(update={"name": name})})
        workdir.save_model(PlannedModel(model=named, resolved=resolved), VERSIONS)
    for path in workdir.model_files():
        if path.stem not in planned and is_run(path.stem, of=loaded.name):
            workdir.forget_model(path.stem)


def _write_pages(workdir: Workdir, report: StudyReport) -> Path:
    """Write the report and its pages; the path of the HTML page."""
    folder = workdir.path / "studies" / report.name
    write_atomically(folder / "study.json", report.model_dump_json(by_alias=True, exclude_none=True, indent=1))
    write_atomically(folder / "study.md", page.markdown(report))
    write_atomically(folder / "study.html", page.html(report))
    return folder / "study.html"


def _conclude(report: StudyReport, path: Path) -> None:
    """Print the outcome."""
    outcome = page.outcome(report)
    table("", outcome.columns, outcome.rows, right=[outcome.columns[index] for index in outcome.numeric])
    print_line(page.reuse(report))
    for warning in report.warnings:
        print_line(f"warning: {warning}")
    print_line(report.conclusion)
    print_line(f"page: {path}, {path.with_suffix('.md')}")
