"""From a task's name to a backend."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_serving.gateway.errors import TaskNotFound
from multitask_serving.gateway.files.route_file import InvalidRoutes, RouteFile, parse_routes
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.serve import local_backends


def task(name: str, *backends: tuple[str, int]) -> RoutedTask:
    """A task on backends given as (revision, weight)."""
    listed = [Backend(service=f"{rev}.svc", port=8001, weight=w, revision=rev) for rev, w in backends or (("r1", 100),)]
    return RoutedTask(name=name, type="Classification", fields=("text",), labels=("a", "b"), backends=tuple(listed))


def table(model: str, *names: str, namespace: str = "default") -> TaskRoute:
    spec = TaskRouteSpec(namespace=namespace, model=model, tasks=tuple(task(name) for name in names))
    return TaskRoute(metadata=RouteMetadata(name=model), spec=spec)


DESKS = RouteTable(
    [table("desk", "urgency", "intent"), table("shop", "urgency"), table("desk", "urgency", namespace="team-b")]
)


@pytest.mark.parametrize(
    ("name", "full_name"),
    [
        ("urgency", "default/desk/urgency"),
        ("intent", "default/desk/intent"),
        ("desk/urgency", "default/desk/urgency"),
        ("shop/urgency", "default/shop/urgency"),
        ("default/shop/urgency", "default/shop/urgency"),
        ("team-b/desk/urgency", "team-b/desk/urgency"),
    ],
)
def test_a_task_has_each_of_its_names(name: str, full_name: str) -> None:
    assert DESKS.resolve(name).full_name == full_name


def test_a_later_task_keeps_its_shortest_free_name() -> None:
    assert [route.name for route in DESKS.routes] == ["urgency", "intent", "shop/urgency", "team-b/desk/urgency"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("urgncy", ["urgency"]),
        ("intents", ["intent"]),
        ("desk/urgncy", ["desk/urgency"]),
        ("dsk/urgency", ["desk/urgency"]),
        ("team-b/desk/urgenci", ["team-b/desk/urgency"]),
        ("zzz", []),
        ("", []),
    ],
)
def test_an_unknown_name_gets_similar_ones(name: str, nearest: list[str]) -> None:
    with pytest.raises(TaskNotFound) as caught:
        DESKS.resolve(name)
    assert list(caught.value.nearest)[:1] == nearest
    assert f"no task {name!r} is served here" in str(caught.value)


def written(*tables: TaskRoute) -> str:
    return yaml.safe_dump_all(one.to_json() for one in tables)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "routes.yaml has no TaskRoute document"),
        ("a: [", "routes.yaml is not YAML"),
        ("[]", "routes.yaml is not a TaskRoute"),
        (written(table("m", "t")).replace("weight: 100", "weight: 60"), "weights of task 't' sum to 60, not 100"),
        (written(table("m", "t")).replace("port: 8001", "port: 0"), "spec.tasks.0.backends.0.port"),
        (written(table("m", "t")).replace("fields:", "felds:"), "spec.tasks.0.fields: Field required"),
    ],
)
def test_a_bad_route_file_is_explained(text: str, message: str) -> None:
    with pytest.raises(InvalidRoutes) as caught:
        parse_routes(text, "routes.yaml")
    assert message in str(caught.value)


def test_json_and_several_documents_are_read() -> None:
    assert parse_routes(table("m", "t").model_dump_json(by_alias=True), "x")[0].spec.model == "m"
    assert [one.spec.model for one in parse_routes(written(table("a", "t"), table("b", "t")), "x")] == ["a", "b"]


def test_only_external_names_of_fields_are_read_as_in_a_cluster() -> None:
    document: Any = table("m", "t").to_json()
    for name, served_by in {"servedBy": "g", "served_by": ""}.items():
        document["spec"]["tasks"][0] |= {"servedBy": "", name: "g"}
        assert parse_routes(yaml.safe_dump(document), "x")[0].spec.tasks[0].served_by == served_by


def test_a_changed_file_is_read_again_and_a_bad_one_keeps_the_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(written(table("m", "t")))
    file = RouteFile(path)
    assert not file.refresh()

    path.write_text(written(table("m", "t", "u")))
    assert file.refresh()
    assert [route.name for route in file.table.routes] == ["t", "u"]

    for change in (lambda: path.write_text("a: ["), path.unlink):
        caplog.clear()
        change()
        assert not file.refresh()
        assert not file.refresh()
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "the routes are not changed" in caplog.text
        assert len(file.table.routes) == 2

    path.write_text(written(table("m", "v")))
    os.utime(path, ns=(1, 1))
    assert file.refresh()
    assert [route.name for route in file.table.routes] == ["v"]


def test_serving_locally_points_every_backend_at_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(written(table("m", "t", "u")))
    routes = RouteFile(path, local_backends(1234)).table.routes
    places = {(backend.service, backend.port, backend.weight) for route in routes for backend in route.task.backends}
    assert places == {("127.0.0.1", 1234, 100)}
    assert [route.task.backends[0].revision for route in routes] == ["r1", "r1"]
