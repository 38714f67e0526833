"""The routes of a gateway whose only backend cannot be reached: only requests that pass every check would notice."""

from __future__ import annotations

from pathlib import Path

import yaml

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec


def write_routes(path: Path) -> Path:
    """One classification task, ``urgency``, with the field ``text``."""
    backend = Backend(service="127.0.0.1", port=1, weight=100, revision="r")
    task = RoutedTask(
        name="urgency", type="Classification", fields=("text",), labels=("a", "b"), served_by="m", backends=(backend,)
    )
    table = TaskRoute(metadata=RouteMetadata(name="desk"), spec=TaskRouteSpec(model="desk", tasks=(task,)))
    path.write_text(yaml.safe_dump(table.to_json()))
    return path
