"""``mtm status NAME``: the status of a model, with more detail than ``kubectl get mtm``."""

from __future__ import annotations

import time

from multitask_api.resource.status import Condition, MultiTaskModelStatus, StageStatus
from multitask_operator.commands.cluster.jobs import JobRow, job_rows, join_names
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import read_model
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.formatting import duration, number, routing_cause
from multitask_operator.reconciler.state.accessors import parse_time
from multitask_operator.reconciler.state.cluster_state import ClusterState

_NUMBERS = ("baseline", "score", "ratio")


def status(name: str, options: ClusterOptions, *, as_json: bool) -> int:
    """Print the resource's status as the operator wrote it, and what its Jobs do now."""
    cluster = read_model(options, name, time.time())
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


def _print(cluster: ClusterState, status: MultiTaskModelStatus, rows: list[JobRow], now: float) -> None:
    generation = cluster.generation
    served = status.serving.revision if status.serving else None
    parts = [
        status.stage or "no status yet",
        status.progress,
        f"qualified {status.qualified}" if status.qualified else None,
        f"trained result {status.revision}" if status.revision else None,
        f"served revision {served}" if served else None,
    ]
    summary = " · ".join(part for part in parts if part)
    print_line(f"{cluster.namespace}/{cluster.name}, generation {generation}: {summary}")
    if status.observed_generation != generation:
        written = f"it is of generation {status.observed_generation}" if status.observed_generation else "it is empty"
        print_line(f"the operator has not updated the status for this generation yet: {written}")
    if status.conditions:
        columns = ("condition", "status", "for", "reason", "message")
        table("", columns, [_condition_row(item, now) for item in status.conditions])
    if status.stages:
        stages = [
            (
                row.name,
                f"{row.done}/{row.total}",
                _or_empty(row.running),
                _or_empty(row.failed),
                row.progress or _skipped(row),
            )
            for row in status.stages
        ]
        table("", ("stage", "done", "running", "failed", "progress"), stages, right=("done", "running", "failed"))
    if rows:
        jobs = [(row.name, join_names(row.stages), row.state, row.detail) for row in rows]
        table("", ("job", "stages", "state", "now"), jobs)
    if status.tasks:
        tasks = [
            (
                *(task.name, task.group or "–", number(task.baseline), number(task.score), number(task.ratio)),
                *(task.verdict or "–", task.served_by or "–", routing_cause(task.reason)),
            )
            for task in status.tasks
        ]
        table("", ("task", "group", *_NUMBERS, "verdict", "served by", "why"), tasks, right=_NUMBERS)
    print_line(f"next: mtm explain {cluster.name} -n {cluster.namespace}")


def _condition_row(item: Condition, now: float) -> tuple[str, ...]:
    since = item.last_transition_time
    age = duration(max(0.0, now - parse_time(since))) if since else "–"
    return (item.type, item.status, age, item.reason, item.message)


def _skipped(row: StageStatus) -> str:
    return f"{row.skipped} skipped: {row.skip_reason}" if row.skipped else ""


def _or_empty(count: int) -> str:
    return str(count) if count else ""
