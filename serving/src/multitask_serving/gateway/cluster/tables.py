"""The last good version of each TaskRoute. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from multitask_api.routes import Backend, RoutedTask, TaskRoute
from multitask_api.types import JsonObject

Key = tuple[str, str]
"""Namespace and name of a TaskRoute."""


@dataclass(frozen=True, slots=True)
class FollowedTable:
    """A TaskRoute that exists. ``table`` is its last valid version, of ``generation``; None and 0: none was valid yet.

    ``fault``: why its newest version is not followed; empty if it is.
    ``acknowledged``: the generation that its status has for this gateway in resource version ``version``; 0: none.
    """

    uid: str
    created: str
    table: TaskRoute | None = None
    generation: int = 0
    fault: str = ""
    acknowledged: int = 0
    version: int = 0


Tables = Mapping[Key, FollowedTable]


def followed(item: JsonObject, before: FollowedTable | None, gateway: str) -> FollowedTable:
    """A TaskRoute as it is followed now; ``before``: as it was. ``gateway``: this one's name in the status."""
    metadata = item["metadata"]
    if before is None or before.uid != metadata["uid"]:  # another object of the same name
        before = FollowedTable(metadata["uid"], str(metadata.get("creationTimestamp") or ""))
    version = int(metadata.get("resourceVersion") or 0)
    before = replace(before, acknowledged=_acknowledged(item, gateway), version=version)
    generation = int(metadata.get("generation") or 1)
    if generation == before.generation and not before.fault:
        return before
    try:
        table = _parse(item)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
        return replace(before, fault=f"generation {generation} is not a valid TaskRoute: {problems}")
    if table.spec.namespace != metadata["namespace"]:
        # Names are routed by it: who may write in one namespace must not take those of another.
        own, named = metadata["namespace"], table.spec.namespace
        return replace(before, fault=f"generation {generation} has spec.namespace {named!r}, and is in {own!r}")
    return replace(before, table=table, generation=generation, fault="")


def tasks_that_lose_their_servers(
    before: TaskRoute, after: TaskRoute, has_server: Callable[[Backend], bool]
) -> tuple[str, ...]:
    """The tasks that have a server by ``before`` and none by ``after``."""
    served = {task.name for task in before.spec.tasks if _is_served(task, has_server)}
    return tuple(task.name for task in after.spec.tasks if task.name in served and not _is_served(task, has_server))


def _is_served(task: RoutedTask, has_server: Callable[[Backend], bool]) -> bool:
    return any(backend.weight > 0 and has_server(backend) for backend in task.backends)


def by_age(tables: Tables) -> list[TaskRoute]:
    """All valid tables, oldest first: the order in which names are given."""
    ordered = sorted(tables.values(), key=lambda each: (each.created, each.uid))
    return [each.table for each in ordered if each.table is not None]


def _parse(item: JsonObject) -> TaskRoute:
    # Not the status: what a newer operator may write there is no reason to reject the routes.
    names = ("apiVersion", "kind", "metadata", "spec")
    return TaskRoute.model_validate({name: item[name] for name in names if name in item}, by_name=False)


def _acknowledged(item: JsonObject, gateway: str) -> int:
    entries = (item.get("status") or {}).get("gateways") or ()
    return next((int(each["observedGeneration"]) for each in entries if each.get("name") == gateway), 0)
