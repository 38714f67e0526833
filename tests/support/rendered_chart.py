"""The chart's objects as helm renders them without a cluster, for a release ``mtm`` in the namespace ``operators``."""

from __future__ import annotations

from typing import Any

from devcluster import chart

Map = dict[str, Any]
Objects = dict[tuple[str, str | None, str], Map]

OPERATOR, GATEWAY = "mtm-multitask-operator", "mtm-gateway"


def rendered(*options: str) -> Objects:
    """(kind, namespace, name) → object."""
    objects: Objects = {}
    for item in chart.rendered(*options):
        key = (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
        assert key not in objects
        objects[key] = item
    return objects


def deployment(objects: Objects, name: str = OPERATOR) -> Map:
    """A Deployment."""
    return objects["Deployment", "operators", name]


def pod(objects: Objects, name: str = OPERATOR) -> Map:
    """The spec of its pods."""
    spec: Map = deployment(objects, name)["spec"]["template"]["spec"]
    return spec


def container(objects: Objects, name: str = OPERATOR) -> Map:
    """The only container of its pods."""
    (only,) = pod(objects, name)["containers"]
    result: Map = only
    return result


def rules(objects: Objects, kind: str) -> list[Map]:
    """All rules of all Roles or ClusterRoles."""
    return [rule for (each, *_), item in objects.items() if each == kind for rule in item["rules"]]
