"""``mtm report NAME``: report.json and report.html of a model in a cluster, from what its stages reported."""

from __future__ import annotations

import time
from pathlib import Path

from multitask_api.report import ReportChanges
from multitask_operator.commands.cluster.model_view import seconds_of_stages
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import read_model
from multitask_operator.commands.console import print_json, print_line, qualification, starts, warnings
from multitask_operator.commands.plan import count_done
from multitask_operator.commands.report import write_report
from multitask_operator.local.workdir import Workdir
from multitask_operator.reconciler.serving.verification import reports_of
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.revision_state import revision_states
from multitask_operator.report.build import build_report


def report(name: str, options: ClusterOptions, to: Path | None, *, as_json: bool) -> int:
    """Write the report into the folder ``to``; while stages are missing report.partial.json and its page."""
    now = time.time()
    cluster = read_model(options, name, now)
    state = ModelState.of(cluster, now)
    graph = state.plan.graph
    data = build_report(state.model, graph, seconds_of_stages(state), now)
    data = data.model_copy(update={"changes": newest_changes(state)})
    folder = Workdir(to or Path(".mtm") / "cluster" / cluster.namespace / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_report(folder, data, complete=graph.finished)
    if as_json:
        print_json(data.model_dump(mode="json", by_alias=True))
        return 0
    if any(task.verdict for task in data.tasks):
        qualification(data)
    starts(data)
    warnings(data)
    if graph.finished:
        print_line(f"report: {folder.report_page}")
    else:
        print_line(f"{count_done(graph)} stages done; partial report: {folder.partial_report[1]}")
        print_line(f"next: mtm explain {name} -n {cluster.namespace}")
    return 0


def newest_changes(state: ModelState) -> ReportChanges | None:
    """What the newest revision that was compared with another one changes; None: none was."""
    for revision in revision_states(state.cluster):
        for report in reports_of(state, revision).values():
            if report.previous and (report.flips or report.not_compared):
                return ReportChanges(
                    revision=report.revision,
                    previous=report.previous,
                    tasks=report.flips,
                    not_compared=report.not_compared,
                )
    return None
