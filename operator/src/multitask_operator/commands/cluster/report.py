"""``mtm report NAME``: report.json and report.html of the run in a cluster, from what its stages reported."""

from __future__ import annotations

import time
from pathlib import Path

from multitask_operator.commands.cluster.model_view import seconds_of_stages
from multitask_operator.commands.cluster.session import ClusterOptions, run_with_client
from multitask_operator.commands.cluster.state_reader import read_cluster_state
from multitask_operator.commands.console import print_json, print_line, qualification
from multitask_operator.commands.plan import done_of
from multitask_operator.commands.run import write_report
from multitask_operator.local.workdir import Workdir
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.report.build import build_report


def report(name: str, where: ClusterOptions, to: Path | None, *, as_json: bool) -> int:
    """Write the report into ``to``; of a run that is not done, as locally, report.partial.json and its page."""
    now = time.time()
    cluster = run_with_client(where, lambda client, namespace: read_cluster_state(client, namespace, name, now))
    state = ModelState.of(cluster, now)
    graph = state.plan.graph
    found = build_report(state.model, graph, seconds_of_stages(state))
    place = Workdir(to or Path(".mtm") / "cluster" / cluster.namespace / name)
    place.path.mkdir(parents=True, exist_ok=True)
    write_report(place, found, whole=graph.finished)
    if as_json:
        print_json(found.model_dump(mode="json", by_alias=True))
        return 0
    if any(task.verdict for task in found.tasks):
        qualification(found)
    if graph.finished:
        print_line(f"report: {place.report_page}")
    else:
        print_line(f"{done_of(graph)} stages are done; so far: {place.partial_report[1]}")
        print_line(f"next: mtm explain {name} -n {cluster.namespace}")
    return 0
