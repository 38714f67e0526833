"""The route table: maps a task's name to its entry. Pure, and never changed: another one replaces it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from multitask_api.routes import Backend, RoutedTask, TaskRoute
from multitask_api.serving_io.task_names import NameClaim, NameTaken, TaskNames, any_namespace, assign_names
from multitask_serving.gateway.errors import TaskNotFound

_MAX_MATCHED_LENGTH = 256
"""Longer names get no suggestions: comparing takes time that grows with their length, and blocks all other calls."""


@dataclass(frozen=True, slots=True)
class Route:
    """One task: its full name ``namespace/model/task``, its shortest unambiguous name, and its entry in the table."""

    full_name: str
    name: str
    task: RoutedTask

    @property
    def namespace(self) -> str:
        """The namespace of the model, and of its backends' Services."""
        return self.full_name.split("/", 1)[0]

    @property
    def model(self) -> str:
        """The model's name with its namespace: ``namespace/model``."""
        return self.full_name.rpartition("/")[0]


class RouteTable:
    """All tasks by their names; see `assign_names` for which task has which.

    ``tables`` are given oldest first. ``may_be_short``: whether the tasks of a namespace may have short names.
    """

    def __init__(self, tables: Iterable[TaskRoute] = (), may_be_short: Callable[[str], bool] = any_namespace) -> None:
        self._by_name: dict[str, Route] = {}
        self._services: Mapping[tuple[str, str, int], Backend] | None = None
        self.routes: list[Route] = []
        self.names: tuple[TaskNames, ...] = ()
        tables = list(tables)
        claims = [
            NameClaim(table.spec.namespace, table.spec.model, tuple(task.name for task in table.spec.tasks))
            for table in tables
        ]
        entries = [task for table in tables for task in table.spec.tasks]
        self.names = assign_names(claims, may_be_short)
        for assigned, task in zip(self.names, entries, strict=True):
            if not assigned.names:
                continue
            route = Route(full_name=assigned.names[0], name=assigned.names[-1], task=task)
            self.routes.append(route)
            self._by_name.update(dict.fromkeys(assigned.names, route))

    def get(self, name: str) -> Route | None:
        """The route of the task with this name; None if there is none."""
        return self._by_name.get(name)

    def resolve(self, name: str) -> Route:
        """The route of the task with this name. Raises `TaskNotFound` with similar names."""
        route = self.get(name)
        if route is None:
            raise TaskNotFound(name, self.nearest(name))
        return route

    def taken(self) -> Iterator[tuple[str, NameTaken]]:
        """Full names of tasks, each with a name that it does not get."""
        for assigned in self.names:
            full = f"{assigned.claim.namespace}/{assigned.claim.model}/{assigned.task}"
            yield from ((full, name) for name in assigned.taken)

    def services(self) -> Mapping[tuple[str, str, int], Backend]:
        """Namespace, Service and port of all backends, each with one that has them: tasks share their backends."""
        if self._services is None:
            self._services = {
                (route.namespace, backend.service, backend.port): backend for route, backend in self.backends()
            }
        return self._services

    def backends(self) -> Iterator[tuple[Route, Backend]]:
        """Every backend with its task."""
        return ((route, backend) for route in self.routes for backend in route.task.backends)

    def nearest(self, name: str, allowed: Callable[[Route], bool] = lambda route: True) -> list[str]:
        """Similar names of ``allowed`` routes, the closest first.

        They are of the same model if the name has a known model, otherwise of all.
        """
        if len(name) > _MAX_MATCHED_LENGTH:
            return []
        may_call = {route.full_name for route in self.routes if allowed(route)}
        known = [known for known, route in self._by_name.items() if route.full_name in may_call]
        prefix, _, task = name.rpartition("/")
        siblings = [other.rpartition("/")[2] for other in known if other.rpartition("/")[0] == prefix]
        if not siblings:
            return difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        stem = name[: len(name) - len(task)]
        return [stem + near for near in difflib.get_close_matches(task, siblings, n=3, cutoff=0.6)]
