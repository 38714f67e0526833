"""Reads the route table from a file of TaskRoute documents (YAML or JSON), and again when the file changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import ValidationError

from multitask_api.errors import UserError
from multitask_api.routes import TaskRoute
from multitask_serving.gateway.files.watched_file import WatchedFile
from multitask_serving.gateway.routes import RouteTable

log = logging.getLogger(__name__)


class InvalidRoutes(UserError):
    """The route file cannot be read, or is not valid."""


def read_routes(path: Path) -> list[TaskRoute]:
    """The tables in the file. Raises `InvalidRoutes`."""
    try:
        return parse_routes(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidRoutes(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRoutes(f"{path} is not UTF-8: {error}") from error


def parse_routes(text: str, source: str) -> list[TaskRoute]:
    """The tables in ``text``; ``source`` names its origin in errors. Raises `InvalidRoutes`."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
        tables = [TaskRoute.model_validate(document, by_name=False) for document in documents]
    except yaml.YAMLError as error:
        raise InvalidRoutes(f"{source} is not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise InvalidRoutes(f"{source} is not a TaskRoute: {problems}") from error
    if not tables:
        raise InvalidRoutes(f"{source} has no TaskRoute document")
    return tables


TableTransform = Callable[[TaskRoute], TaskRoute]
"""Applied to every table after reading it."""


class RouteFile:
    """A route file. ``table`` is the last valid table read from it."""

    def __init__(self, path: Path, transform: TableTransform = lambda table: table) -> None:
        """Read the file for the first time. Raises `InvalidRoutes`."""
        self._path = path
        self._transform = transform
        self._file = WatchedFile(path, self._read, InvalidRoutes, "the routes are")

    @property
    def table(self) -> RouteTable:
        """The last valid table."""
        return self._file.content

    def refresh(self) -> bool:
        """Read the file again if it has changed. Returns whether the table was replaced; logs an invalid file."""
        if not self._file.refresh():
            return False
        log.info("routes read from %s: %d tasks", self._path, len(self.table.routes))
        return True

    def _read(self) -> RouteTable:
        return RouteTable(self._transform(table) for table in read_routes(self._path))
