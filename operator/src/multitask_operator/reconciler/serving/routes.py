"""The table of routes as it stands, and who follows it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from multitask_api.resource.model import API_VERSION
from multitask_api.routes import TaskRoute
from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.cluster_state import ClusterState


def read_route(item: JsonObject | None) -> TaskRoute | None:
    """None: there is no table, or somebody made one that cannot be read."""
    if item is None:
        return None
    names = ("apiVersion", "kind", "spec", "status")
    document = {name: item[name] for name in names if name in item} | {"metadata": {"name": item["metadata"]["name"]}}
    try:
        return TaskRoute.model_validate({"apiVersion": API_VERSION, "kind": "TaskRoute", **document})
    except ValidationError:
        return None


def routed_revisions(route: TaskRoute | None) -> frozenset[str]:
    """The revisions that a table sends requests to."""
    tasks = route.spec.tasks if route is not None else ()
    return frozenset(backend.revision for task in tasks for backend in task.backends)


@dataclass(frozen=True)
class Acknowledged:
    """How many gateways follow the table."""

    gateways: int
    behind: int

    @classmethod
    def of(cls, cluster: ClusterState, route: TaskRoute | None) -> Acknowledged:
        """By their entries in the status of the table."""
        generation = int((cluster.task_route or {"metadata": {}})["metadata"].get("generation", 0))
        entries = route.status.gateways if route is not None and route.status is not None else ()
        following = sum(entry.observed_generation >= generation for entry in entries)
        return cls(following, len(entries) - following)


def unanswered(route: TaskRoute, ready: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(task, revision) of each task none of whose backends has a ready server; ``ready``: revision → servers."""
    for task in route.spec.tasks:
        used = [backend.revision for backend in task.backends if backend.weight > 0]
        if not any(ready.get(name, 0) for name in used):
            yield task.name, used[0] if used else ""
