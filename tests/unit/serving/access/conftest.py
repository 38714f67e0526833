"""A gateway with tasks of two teams, and callers of several kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_serving.gateway.access.callers import hash_key

SHOP_KEY, ADMIN_KEY, GUEST_KEY = "s" * 40, "a" * 40, "g" * 40
BATCH = "spiffe://cluster.local/ns/team-b/sa/batch"

CALLERS = [
    {"name": "shop", "keys": [hash_key(SHOP_KEY)], "allow": ["team-a/desk"]},
    {"name": "admin", "keys": [hash_key(ADMIN_KEY)], "allow": ["*"]},
    {"name": "guest", "keys": [hash_key(GUEST_KEY)], "allow": ["team-a/desk/urgency"]},
    {"name": "batch", "certificates": [BATCH], "allow": ["team-b"]},
]


def route(namespace: str, model: str, *tasks: str) -> TaskRoute:
    """The routes of a model whose server cannot be reached: a request that is let through ends with UNAVAILABLE."""
    backend = Backend(service="127.0.0.1", port=1, weight=100, revision="r")
    routed = tuple(
        RoutedTask(name=name, type="Classification", fields=("text",), labels=("a", "b"), backends=(backend,))
        for name in tasks
    )
    return TaskRoute(
        metadata=RouteMetadata(name=model), spec=TaskRouteSpec(namespace=namespace, model=model, tasks=routed)
    )


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    path = tmp_path / "routes.yaml"
    tables = [route("team-a", "desk", "urgency", "stance"), route("team-b", "secret-desk", "urgency", "urgencies")]
    path.write_text(yaml.safe_dump_all(table.to_json() for table in tables))
    return path


@pytest.fixture
def callers(tmp_path: Path) -> Path:
    path = tmp_path / "callers.yaml"
    path.write_text(yaml.safe_dump({"callers": CALLERS}))
    return path
