"""Keeps the route table up to date with a file of one or more TaskRoute documents (YAML or JSON)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import ValidationError

from multitask_api.errors import UserError
from multitask_api.routes import TaskRoute
from multitask_serving.gateway.routes import RouteTable

log = logging.getLogger(__name__)


class InvalidRoutes(UserError):
    """The route file cannot be read, or is not a route table."""


def read_routes(path: Path) -> list[TaskRoute]:
    """The file's tables. Raises `InvalidRoutes`."""
    try:
        return parse_routes(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidRoutes(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRoutes(f"{path} is not UTF-8: {error}") from error


def parse_routes(text: str, place: str) -> list[TaskRoute]:
    """The tables in ``text``, which came from ``place``. Raises `InvalidRoutes`."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
        tables = [TaskRoute.model_validate(document) for document in documents]
    except yaml.YAMLError as error:
        raise InvalidRoutes(f"{place} is not YAML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise InvalidRoutes(f"{place} is not a TaskRoute: {faults}") from error
    if not tables:
        raise InvalidRoutes(f"{place} holds no TaskRoute document")
    return tables


Adapt = Callable[[TaskRoute], TaskRoute]
"""A change made to every table as it is read."""


class RouteFile:
    """A route file and the last good table read from it, ``table``."""

    def __init__(self, path: Path, adapt: Adapt = lambda table: table) -> None:
        """Read the file for the first time. Raises `InvalidRoutes`."""
        self._path = path
        self._adapt = adapt
        self._seen = self._version()
        self.table = self._read()

    def refresh(self) -> bool:
        """Read the file again if it changed; True if the table was replaced. A bad file is only logged."""
        version = self._version()
        if version == self._seen:
            return False
        self._seen = version
        try:
            self.table = self._read()
        except InvalidRoutes as error:
            log.error("routes stay as they were: %s", error)
            return False
        log.info("routes read from %s: %d tasks", self._path, len(self.table.routes))
        return True

    def _read(self) -> RouteTable:
        return RouteTable(self._adapt(table) for table in read_routes(self._path))

    def _version(self) -> tuple[int, ...]:
        try:
            state = self._path.stat()
        except OSError:
            return ()
        return state.st_ino, state.st_mtime_ns, state.st_size
