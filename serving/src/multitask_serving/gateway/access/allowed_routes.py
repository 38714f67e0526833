"""The route table as one caller sees it."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_serving.gateway.access.grants import Caller
from multitask_serving.gateway.errors import TaskNotAllowed, TaskNotFound
from multitask_serving.gateway.routes import Route, RouteTable


class AllowedRoutes:
    """The routes of ``table`` that ``caller`` may use. A name means the same task to every caller."""

    def __init__(self, table: RouteTable, caller: Caller) -> None:
        self._table = table
        self._caller = caller

    @property
    def routes(self) -> Sequence[Route]:
        """The routes of the tasks that the caller may call."""
        if self._caller.may_call_everything:
            return self._table.routes
        return [route for route in self._table.routes if self._allows(route)]

    def resolve(self, name: str) -> Route:
        """The route of the task with this name. Raises `TaskNotAllowed` or `TaskNotFound`, both with similar names.

        A task that the caller may not call gets the same answer whether it exists or not (as Kubernetes does it), and
        no similar name is one that it may not call.
        """
        route = self._table.get(name)
        if route is not None and self._allows(route):
            return route
        nearest = self._table.nearest(name, self._allows)
        if self._caller.may_call_everything or self._caller.may_call(name):
            raise TaskNotFound(name, nearest)
        raise TaskNotAllowed(name, self._caller.name, nearest)

    def _allows(self, route: Route) -> bool:
        return self._caller.may_call(route.full_name)
