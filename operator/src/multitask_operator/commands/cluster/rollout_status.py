"""``mtm rollout status NAME``: who answers which task, how far the rollout is, and what it waits for."""

from __future__ import annotations

import time

from multitask_api.routes import RolloutState, RoutedTask, TaskRollout, TaskRoute
from multitask_api.serving_io.names import ROLLBACK_ANNOTATION
from multitask_operator.commands.cluster.model_view import condition_of
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import read_model
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.reconciler.serving.routes import read_route, status_of
from multitask_operator.reconciler.serving.task_names import NAME_TAKEN
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.revision_state import RevisionState, revision_states
from multitask_operator.rollout import OVER


def status(name: str, options: ClusterOptions, *, as_json: bool) -> int:
    """Print the table and the state of the latest rollout as they stand in the TaskRoute."""
    cluster = read_model(options, name, time.time())
    route = read_route(cluster.task_route)
    revisions = revision_states(cluster)
    if as_json:
        print_json(as_data(cluster, route, revisions))
    else:
        _print(cluster, route, revisions)
    return 0


def as_data(cluster: ClusterState, route: TaskRoute | None, revisions: dict[str, RevisionState]) -> dict[str, object]:
    """What ``--output json`` prints."""
    status = status_of(route)
    return {
        "namespace": cluster.namespace,
        "name": cluster.name,
        "rollout": status.rollout.to_json() if status.rollout is not None else None,
        "tasks": [
            {"name": task.name, "weights": {item.revision: item.weight for item in task.backends}}
            for task in (route.spec.tasks if route is not None else ())
        ],
        "rejected": [item.to_json() for item in status.rejected],
        "revisions": [
            {"name": item.name, "replicas": item.replicas, "ready": item.ready_endpoints} for item in revisions.values()
        ],
        "gateways": [item.to_json() for item in status.gateways],
        "rollback": cluster.annotations.get(ROLLBACK_ANNOTATION),
        "namesTaken": _names_taken(cluster),
    }


def headline(state: RolloutState | None) -> str:
    """One sentence about the rollout."""
    if state is None:
        return "no rollout yet"
    change = f"revision {state.revision}" + (f", before it {state.stable}" if state.stable else "")
    if state.message or state.phase in OVER or state.step_started is None:
        return f"{change}: {state.phase}" + (f": {state.message}" if state.message else "")
    return f"{change}: {state.phase}: step {state.step + 1} ({state.weight} %)"


def task_rows(route: TaskRoute) -> list[tuple[str, ...]]:
    """Task, weights, phase, what it passed on, how its test rows changed, and the figures."""
    state = status_of(route).rollout
    rows = {row.name: row for row in (state.tasks if state is not None else ())}
    entries = [_row(task, rows.get(task.name)) for task in route.spec.tasks]
    routed = {task.name for task in route.spec.tasks}
    return entries + [_row(None, row) for name, row in rows.items() if name not in routed]


def _row(task: RoutedTask | None, row: TaskRollout | None) -> tuple[str, ...]:
    weights = " · ".join(f"{item.revision} {item.weight} %" for item in (task.backends if task is not None else ()))
    name = task.name if task is not None else row.name if row is not None else ""
    if row is None:
        return (name, weights or "not routed", "–", "–", "–", "")
    return (name, weights or "not routed", row.phase, row.passed_on or "–", _changed(row), row.message)


def _names_taken(cluster: ClusterState) -> str | None:
    """The message of the condition, if the status has it: only the operator sees the tables of all models."""
    condition = condition_of(cluster.previous_status, NAME_TAKEN)
    return condition.message if condition is not None else None


def _changed(row: TaskRollout) -> str:
    """Rows that turned right and rows that turned wrong, before the revision had traffic."""
    counts = row.changed_answers
    return "–" if counts is None else f"+{counts.wrong_to_right} −{counts.right_to_wrong} of {counts.compared:,}"


def _print(cluster: ClusterState, route: TaskRoute | None, revisions: dict[str, RevisionState]) -> None:
    status = status_of(route)
    print_line(f"{cluster.namespace}/{cluster.name}: {headline(status.rollout)}")
    rollback = cluster.annotations.get(ROLLBACK_ANNOTATION)
    if rollback:
        print_line(f"rolled back to revision {rollback} until mtm rollback {cluster.name} --undo")
    if route is not None and route.spec.tasks:
        table("", ("task", "traffic", "phase", "passed on", "test rows", "figures"), task_rows(route))
    taken = _names_taken(cluster)
    if taken:
        print_line(taken)
    if revisions:
        rows = [(item.name, f"{item.ready_endpoints}/{item.replicas}") for item in revisions.values()]
        table("", ("revision", "servers ready"), rows, right=("servers ready",))
    if status.rejected:
        rejected = [(item.revision, item.task or "all", item.reason, item.message) for item in status.rejected]
        table("", ("rejected", "task", "reason", "message"), rejected)
    print_line(f"next: {next_step(cluster, status.rollout)}")


def next_step(cluster: ClusterState, state: RolloutState | None) -> str:
    """The command that helps most now."""
    model = f"{cluster.name} -n {cluster.namespace}"
    if state is not None and state.phase == "Paused" and state.step_started is not None:
        return f"mtm rollout resume {model}, or mtm rollout abort {model}"
    if state is not None and state.phase in ("Failed", "Aborted"):
        return f"mtm rollout retry {model}"
    return f"mtm explain {model}"
