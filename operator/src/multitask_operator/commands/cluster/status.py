"""``mtm status NAME``: the story that ``kubectl get mtm`` tells, in more words."""

from __future__ import annotations

import time

from multitask_api.resource.status import Condition, MultiTaskModelStatus
from multitask_operator.commands.cluster.jobs import JobRow, job_rows, names
from multitask_operator.commands.cluster.session import ClusterOptions, run_with_client
from multitask_operator.commands.cluster.state_reader import read_cluster_state
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.formatting import duration, number
from multitask_operator.reconciler.state.accessors import parse_time
from multitask_operator.reconciler.state.cluster_state import ClusterState

_FIGURES = ("baseline", "score", "ratio")


def status(name: str, where: ClusterOptions, *, as_json: bool) -> int:
    """Show the resource's status, and live what its Jobs do."""
    cluster = run_with_client(where, lambda client, namespace: read_cluster_state(client, namespace, name, time.time()))
    now = time.time()
    rows = job_rows(cluster, now)
    if as_json:
        print_json(
            {
                "name": cluster.name,
                "namespace": cluster.namespace,
                "generation": cluster.generation,
                "status": cluster.model.get("status") or {},
                "jobs": [row.to_json() for row in rows],
            }
        )
        return 0
    _print(cluster, cluster.previous_status or MultiTaskModelStatus(), rows, now)
    return 0


def _print(cluster: ClusterState, found: MultiTaskModelStatus, rows: list[JobRow], now: float) -> None:
    generation = cluster.generation
    parts = [
        found.stage or "no status yet",
        found.progress,
        f"qualified {found.qualified}" if found.qualified else None,
        f"revision {found.revision}" if found.revision else None,
    ]
    summary = " · ".join(part for part in parts if part)
    print_line(f"{cluster.namespace}/{cluster.name}, generation {generation}: {summary}")
    if found.observed_generation != generation:
        seen = f"it tells of generation {found.observed_generation}" if found.observed_generation else "it is empty"
        print_line(f"the operator has not written this generation's status yet: {seen}")
    if found.conditions:
        columns = ("condition", "status", "for", "reason", "message")
        table("", columns, [_condition_row(item, now) for item in found.conditions])
    if found.stages:
        shown = [
            (row.name, f"{row.done}/{row.total}", _some(row.running), _some(row.failed), row.progress or "")
            for row in found.stages
        ]
        table("", ("stage", "done", "running", "failed", "progress"), shown, right=("done", "running", "failed"))
    if rows:
        jobs = [(row.name, names(row.stages), row.state, row.doing) for row in rows]
        table("", ("job", "stages", "state", "now"), jobs)
    if found.tasks:
        tasks = [
            (
                *(task.name, task.group or "–", number(task.baseline), number(task.score), number(task.ratio)),
                *(task.verdict or "–", task.served_by or "–"),
            )
            for task in found.tasks
        ]
        table("", ("task", "group", *_FIGURES, "verdict", "served by"), tasks, right=_FIGURES)
    print_line(f"next: mtm explain {cluster.name} -n {cluster.namespace}")


def _condition_row(item: Condition, now: float) -> tuple[str, ...]:
    since = item.last_transition_time
    age = duration(max(0.0, now - parse_time(since))) if since else "–"
    return (item.type, item.status, age, item.reason, item.message)


def _some(count: int) -> str:
    return str(count) if count else ""
