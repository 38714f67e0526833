"""The route table: from a task's name to the backends that answer it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from multitask_api.routes import Backend, RoutedTask, TaskRoute
from multitask_serving.gateway.faults import NoBackend, RevisionNotFound, TaskNotFound

_LONGEST_LIKENESS = 256
"""Names beyond this are like none: comparing takes time with their length, and every call would wait for it."""


@dataclass(frozen=True, slots=True)
class Route:
    """One task: its full name ``namespace/model/task``, the shortest name that is its own, and its row in the table."""

    full_name: str
    name: str
    task: RoutedTask


class RouteTable:
    """All tasks by each of their names.

    A task answers to ``namespace/model/task`` always, and to ``model/task`` and ``task`` unless an earlier one of the
    table took that name.
    """

    def __init__(self, tables: Iterable[TaskRoute] = ()) -> None:
        self._by_name: dict[str, Route] = {}
        self.routes: list[Route] = []
        claims: dict[str, str] = {}
        tasks = []
        for table in tables:
            spec = table.spec
            for task in spec.tasks:
                names = (f"{spec.namespace}/{spec.model}/{task.name}", f"{spec.model}/{task.name}", task.name)
                tasks.append((names, task))
                for name in names:
                    claims.setdefault(name, names[0])
        for names, task in tasks:
            granted = [name for name in names if claims[name] == names[0]]
            route = Route(full_name=names[0], name=granted[-1], task=task)
            self.routes.append(route)
            self._by_name.update(dict.fromkeys(granted, route))

    def resolve(self, name: str) -> Route:
        """The task of this name. Raises `TaskNotFound` with the names most like it."""
        route = self._by_name.get(name)
        if route is None:
            raise TaskNotFound(name, self._nearest(name))
        return route

    def _nearest(self, name: str) -> list[str]:
        """Names like it, the likest first: below the same model if there is one, else any."""
        if len(name) > _LONGEST_LIKENESS:
            return []
        prefix, _, task = name.rpartition("/")
        siblings = [known.rpartition("/")[2] for known in self._by_name if known.rpartition("/")[0] == prefix]
        if not siblings:
            return difflib.get_close_matches(name, self._by_name, n=3, cutoff=0.6)
        stem = name[: len(name) - len(task)]
        return [stem + near for near in difflib.get_close_matches(task, siblings, n=3, cutoff=0.6)]


def choose_backend(route: Route, draw: float, *, revision: str = "", tried: Sequence[Backend] = ()) -> Backend:
    """The backend that answers: by weight with ``draw`` in [0, 1), among those not ``tried`` yet.

    A ``revision`` pins the choice, whatever its weight. When only backends of weight 0 are left, nothing is: they are
    not rolled out. Raises `RevisionNotFound` or `NoBackend`.
    """
    backends: Sequence[Backend] = route.task.backends
    if revision:
        backends = [backend for backend in backends if backend.revision == revision]
        if not backends:
            known = sorted({backend.revision for backend in route.task.backends})
            raise RevisionNotFound(route.name, revision, known)
    left = [backend for backend in backends if backend not in tried and (revision or backend.weight > 0)]
    if not left:
        raise NoBackend(f"no backend of task {route.name!r} is left to ask; try again in a moment")
    total = sum(backend.weight for backend in left)
    if total == 0:
        return left[int(draw * len(left))]
    mark = draw * total
    for backend in left:
        mark -= backend.weight
        if mark < 0:
            return backend
    return left[-1]
