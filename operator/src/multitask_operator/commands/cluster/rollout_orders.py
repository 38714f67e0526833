"""``mtm rollout pause|resume|promote|abort|retry`` and ``mtm rollback``: orders as annotations of the model.

They are annotations because a change of the spec would be undone by whatever keeps the spec in Git.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from multitask_api.errors import UserError
from multitask_api.routes import RolloutState, TaskRouteStatus
from multitask_api.serving_io.names import RETRY_ANNOTATION, ROLLBACK_ANNOTATION, ROLLOUT_ANNOTATION
from multitask_kubernetes.logs import LogClient
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import annotate, read_cluster_state, run_with_client
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.formatting import listed
from multitask_operator.reconciler.serving.routes import read_route, status_of
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.revision_state import revision_states
from multitask_operator.rollout import OVER

RETRY, ROLLBACK, UNDO = "retry", "rollback", "undo"


class NothingToOrder(UserError):
    """There is no rollout, or no revision, that the order could be about."""


@dataclass(frozen=True)
class OrderedChange:
    """An annotation to write; ``value`` None: to remove."""

    revision: str
    annotation: str
    value: str | None
    message: str


def order(name: str, options: ClusterOptions, action: str, revision: str | None, *, as_json: bool) -> int:
    """Write the annotation of ``action``; ``revision`` None: the one that the action is usually about."""

    async def work(client: LogClient, namespace: str) -> tuple[ClusterState, OrderedChange]:
        now = time.time()
        cluster = await read_cluster_state(client, namespace, name, now)
        change = change_for(cluster, action, revision, now)
        otherwise = ", or order it in Git with spec.serving.pinnedRevision"
        await annotate(client, namespace, name, change.annotation, change.value, otherwise=otherwise)
        return cluster, change

    cluster, change = run_with_client(options, work)
    if as_json:
        print_json(
            {
                "namespace": cluster.namespace,
                "name": cluster.name,
                "action": action,
                "revision": change.revision,
                "annotation": change.annotation,
                "value": change.value,
            }
        )
        return 0
    print_line(f"{cluster.namespace}/{cluster.name}: {change.message}")
    print_line(f"next: mtm rollout status {cluster.name} -n {cluster.namespace}")
    return 0


def change_for(cluster: ClusterState, action: str, revision: str | None, now: float) -> OrderedChange:
    """The annotation for an order, ``now`` in Unix seconds. Raises NothingToOrder with what there is instead. Pure."""
    status, stamp = status_of(read_route(cluster.task_route)), format_time(now)
    if action == UNDO:
        ordered = cluster.annotations.get(ROLLBACK_ANNOTATION)
        if ordered is None:
            raise NothingToOrder(f"no rollback of {cluster.name} is ordered; {_pinned_hint(cluster)}")
        text = f"the rollback to revision {ordered} is over; the newest revision is rolled out again"
        return OrderedChange(ordered, ROLLBACK_ANNOTATION, None, text)
    if action == ROLLBACK:
        target = revision or _before(cluster, status.rollout)
        _check_kept(cluster, target)
        _check_not_served(cluster, status.rollout, target)
        text = f"rollback to revision {target} is ordered; it holds until mtm rollback {cluster.name} --undo"
        return OrderedChange(target, ROLLBACK_ANNOTATION, target, text)
    if action == RETRY:
        target = revision or _rejected(cluster, status)
        if target not in {item.revision for item in status.rejected}:
            raise NothingToOrder(f"revision {target} of {cluster.name} is not rejected: {_rejections(status)}")
        text = f"revision {target} may be tried again"
        return OrderedChange(target, RETRY_ANNOTATION, f"{target} {stamp}", text)
    state = _active(cluster, status.rollout, action, revision)
    texts = {
        "pause": f"the rollout of revision {state} pauses",
        "resume": f"the rollout of revision {state} goes on",
        "promote": f"revision {state} gets all traffic without the rest of its steps",
        "abort": f"the rollout of revision {state} is aborted: all tasks go back to their old revision",
    }
    return OrderedChange(state, ROLLOUT_ANNOTATION, f"{action} {state} {stamp}", texts[action])


def _active(cluster: ClusterState, state: RolloutState | None, action: str, revision: str | None) -> str:
    """The revision that is on its way."""
    if state is None or state.phase in OVER:
        if action == "promote" and revision is not None:  # one that waits for room
            _check_kept(cluster, revision)
            return revision
        last = f"; the rollout of {state.revision} is {state.phase}" if state is not None else ""
        hint = f": mtm rollback {cluster.name} goes back to an earlier revision" if action == "abort" else ""
        raise NothingToOrder(f"no rollout of {cluster.name} is under way{last}{hint}")
    if revision is not None and revision != state.revision:
        raise NothingToOrder(f"the rollout under way is that of revision {state.revision}, not of {revision}")
    words = cluster.annotations.get(ROLLOUT_ANNOTATION, "").split()
    if action == "resume" and state.phase != "Paused" and words[:1] != ["pause"]:
        raise NothingToOrder(f"the rollout of revision {state.revision} is not paused: {state.message or state.phase}")
    return state.revision


def _before(cluster: ClusterState, state: RolloutState | None) -> str:
    """The revision that served before the latest rollout."""
    if state is not None and state.stable:
        return state.stable
    if len(revision_states(cluster)) > 1:
        text = f"name one: mtm rollback {cluster.name} REVISION ({_kept(cluster)})"
    else:
        text = f"there is none to go back to ({_kept(cluster)})"
    raise NothingToOrder(f"{cluster.name} has had no other revision; {text}")


def _check_not_served(cluster: ClusterState, state: RolloutState | None, target: str) -> None:
    """An order to go where everything is already would only hold the next revision."""
    if cluster.annotations.get(ROLLBACK_ANNOTATION) == target:
        undo = f"mtm rollback {cluster.name} --undo"
        raise NothingToOrder(f"a rollback to revision {target} is ordered already; it holds until {undo}")
    is_moving = state is not None and state.phase not in OVER
    if is_moving or _served(cluster) != [target]:
        return
    others = [name for name in revision_states(cluster) if name != target]
    other = f"name another: mtm rollback {cluster.name} REVISION" if others else "there is no other one to go back to"
    raise NothingToOrder(
        f"revision {target} answers every task already; {other} ({_kept(cluster)}). To keep it when a newer one is"
        f" trained, set spec.serving.pinnedRevision to {target}"
    )


def _served(cluster: ClusterState) -> list[str]:
    """The revisions that have traffic."""
    route = read_route(cluster.task_route)
    backends = [backend for task in route.spec.tasks for backend in task.backends] if route is not None else []
    return sorted({backend.revision for backend in backends if backend.weight})


def _check_kept(cluster: ClusterState, revision: str) -> None:
    if revision not in revision_states(cluster):
        raise NothingToOrder(f"{cluster.name} has no revision {revision}: {_kept(cluster)}")


def _kept(cluster: ClusterState) -> str:
    served = _served(cluster)
    names = [f"{name} (served)" if name in served else name for name in revision_states(cluster)]
    return f"kept: {listed(names)}" if names else "none is kept"


def _rejected(cluster: ClusterState, status: TaskRouteStatus) -> str:
    if not status.rejected:
        raise NothingToOrder(f"no revision of {cluster.name} is rejected")
    return status.rejected[-1].revision


def _rejections(status: TaskRouteStatus) -> str:
    names: Mapping[str, None] = dict.fromkeys(item.revision for item in status.rejected)
    return f"rejected: {listed(list(names))}" if names else "none is"


def _pinned_hint(cluster: ClusterState) -> str:
    pinned = (cluster.model.get("spec", {}).get("serving") or {}).get("pinnedRevision")
    return f"spec.serving.pinnedRevision is {pinned}" if pinned else "the newest revision is served or rolled out"
