"""The table of routes as it stands, and who follows it. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from multitask_api.routes import TaskRoute, TaskRouteStatus
from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.accessors import acknowledgements
from multitask_operator.reconciler.state.revision_state import RevisionState


def read_route(item: JsonObject | None) -> TaskRoute | None:
    """None: there is no table, or somebody made one that cannot be read. A status that cannot be read is left out."""
    if item is None:
        return None
    document = {"metadata": {"name": item["metadata"]["name"]}, "spec": item.get("spec")}
    for status in ({"status": item.get("status")}, {}):
        with contextlib.suppress(ValidationError):
            return TaskRoute.model_validate(document | status)
    return None


def status_of(route: TaskRoute | None) -> TaskRouteStatus:
    """Its status; empty if it has none."""
    return (route.status if route is not None else None) or TaskRouteStatus()


def following_gateways(route: TaskRoute, pods: frozenset[str] | None) -> int:
    """The gateways that follow the table, of those whose pods exist. One that has an earlier step of a rollout answers
    too: the servers of that step stay until it has caught up."""
    return sum(pods is None or ack.name in pods for ack in status_of(route).gateways)


def without_ended_gateways(item: JsonObject, pods: frozenset[str] | None) -> list[JsonObject] | None:
    """The acknowledgements that stay in the TaskRoute's status; None: all of them do.

    A gateway writes its entry and cannot remove it once its pod is gone.
    """
    written = acknowledgements(item)
    kept = [ack for ack in written if pods is None or ack["name"] in pods]
    return None if len(kept) == len(written) else kept


def unanswered_tasks(route: TaskRoute, revisions: Mapping[str, RevisionState]) -> Iterator[tuple[str, str]]:
    """(task, revision) of each task with traffic and without a ready server to answer it."""
    for task in route.spec.tasks:
        used = [backend.revision for backend in task.backends if backend.weight > 0]
        if used and not any(name in revisions and revisions[name].ready_endpoints for name in used):
            yield task.name, used[0]


def merge_patch(before: object, after: object) -> object:
    """What makes ``before`` be ``after`` as a merge patch (RFC 7396): of an object, fields that ``after`` does not have
    are removed by name. Objects inside lists need nothing: lists are replaced as a whole."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    return {name: None for name in before if name not in after} | after
