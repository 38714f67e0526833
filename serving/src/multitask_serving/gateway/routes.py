"""The route table: maps a task's name to the Triton servers that answer it (its `Backend` entries). Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from multitask_api.routes import Backend, RoutedTask, TaskRoute
from multitask_serving.gateway.errors import NoBackend, RevisionNotFound, TaskNotFound

_MAX_MATCHED_LENGTH = 256
"""Longer names get no suggestions: comparing takes time that grows with their length, and blocks all other calls."""


@dataclass(frozen=True, slots=True)
class Route:
    """One task: its full name ``namespace/model/task``, its shortest unambiguous name, and its entry in the table."""

    full_name: str
    name: str
    task: RoutedTask


class RouteTable:
    """All tasks by their names.

    A task always has the name ``namespace/model/task``, and also ``model/task`` and ``task`` unless an earlier task of
    the table has that name.
    """

    def __init__(self, tables: Iterable[TaskRoute] = ()) -> None:
        self._by_name: dict[str, Route] = {}
        self.routes: list[Route] = []
        owners: dict[str, str] = {}
        tasks = []
        for table in tables:
            spec = table.spec
            for task in spec.tasks:
                names = (f"{spec.namespace}/{spec.model}/{task.name}", f"{spec.model}/{task.name}", task.name)
                tasks.append((names, task))
                for name in names:
                    owners.setdefault(name, names[0])
        for names, task in tasks:
            own_names = [name for name in names if owners[name] == names[0]]
            route = Route(full_name=names[0], name=own_names[-1], task=task)
            self.routes.append(route)
            self._by_name.update(dict.fromkeys(own_names, route))

    def get(self, name: str) -> Route | None:
        """The route of the task with this name; None if there is none."""
        return self._by_name.get(name)

    def resolve(self, name: str) -> Route:
        """The route of the task with this name. Raises `TaskNotFound` with similar names."""
        route = self.get(name)
        if route is None:
            raise TaskNotFound(name, self.nearest(name))
        return route

    def nearest(self, name: str, allowed: Callable[[Route], bool] = lambda route: True) -> list[str]:
        """Similar names of ``allowed`` routes, the closest first.

        They are of the same model if the name has a known model, otherwise of all.
        """
        if len(name) > _MAX_MATCHED_LENGTH:
            return []
        known = [known for known, route in self._by_name.items() if allowed(route)]
        prefix, _, task = name.rpartition("/")
        siblings = [other.rpartition("/")[2] for other in known if other.rpartition("/")[0] == prefix]
        if not siblings:
            return difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        stem = name[: len(name) - len(task)]
        return [stem + near for near in difflib.get_close_matches(task, siblings, n=3, cutoff=0.6)]


def choose_backend(route: Route, draw: float, *, revision: str = "", tried: Sequence[Backend] = ()) -> Backend:
    """Choose a Triton server by weight, with a random number ``draw`` in [0, 1), among those not yet ``tried``.

    With a ``revision``, only its servers are candidates, whatever their weight. Without one, servers of weight 0, which
    are not rolled out, are no candidates. Raises `RevisionNotFound` or `NoBackend`.
    """
    backends: Sequence[Backend] = route.task.backends
    if revision:
        backends = [backend for backend in backends if backend.revision == revision]
        if not backends:
            known = sorted({backend.revision for backend in route.task.backends})
            raise RevisionNotFound(route.name, revision, known)
    candidates = [backend for backend in backends if backend not in tried and (revision or backend.weight > 0)]
    if not candidates:
        raise NoBackend(f"no Triton server of task {route.name!r} is available; try again in a moment")
    total = sum(backend.weight for backend in candidates)
    if total == 0:
        return candidates[int(draw * len(candidates))]
    remaining = draw * total
    for backend in candidates:
        remaining -= backend.weight
        if remaining < 0:
            return backend
    return candidates[-1]
