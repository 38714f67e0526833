"""Which version of a TaskRoute is followed."""

from __future__ import annotations

import pytest

from multitask_api.routes import TaskRoute
from multitask_serving.gateway.cluster.tables import FollowedTable, by_age, followed, tasks_that_lose_their_servers


def item(generation: int = 1, *, uid: str = "u1", namespace: str = "team", weight: int = 100, **fields):
    backend = {"service": "desk-serve-1", "port": 8001, "weight": weight, "revision": "r1"}
    task = {"name": "urgency", "type": "Classification", "fields": ["text"], "labels": ["a", "b"]}
    metadata = {"namespace": "team", "name": "desk", "uid": uid, "generation": generation}
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "TaskRoute",
        "metadata": metadata | {"creationTimestamp": "2026-11-27T20:00:00Z"},
        "spec": {"namespace": namespace, "model": "desk", "tasks": [task | {"backends": [backend]}]},
        **fields,
    }


def follow(*items, gateway: str = "gateway-a") -> FollowedTable:
    """One version after the other."""
    table = None
    for each in items:
        table = followed(each, table, gateway)
    assert table is not None
    return table


FUTURE_STATUS = {"rollout": {"phase": "Rehearsing", "revision": "r2"}, "gateways": []}
NOT_VALID = {"spec": {"model": "desk", "tasks": [{"name": "urgency"}]}}

# the sentence, the versions in order, the generation that is followed, a part of the fault
VERSIONS = [
    ("the first one", [item(1)], 1, ""),
    ("the newest one", [item(1), item(2), item(5)], 5, ""),
    ("the last good one", [item(1), item(2, weight=60)], 1, "generation 2 is not a valid TaskRoute: spec.tasks.0"),
    ("until the next good one", [item(1), item(2, weight=60), item(3)], 3, ""),
    ("through several bad ones", [item(4), item(5, weight=50), item(6, **NOT_VALID)], 4, "generation 6 is not a valid"),
    ("none, if none was good", [item(1, weight=60)], 0, "generation 1 is not a valid TaskRoute"),
    ("not that of a deleted object of the same name", [item(7), item(1, uid="u2", weight=60)], 0, "generation 1"),
    ("another object begins anew", [item(7), item(1, uid="u2")], 1, ""),
    ("not one that names another namespace", [item(1), item(2, namespace="other")], 1, "spec.namespace 'other'"),
    ("whatever a newer operator writes as status", [item(1, status=FUTURE_STATUS)], 1, ""),
    ("with fields that are not known", [item(1, spec=item()["spec"] | {"failover": "region"}, extra={})], 1, ""),
]


@pytest.mark.parametrize(
    ("versions", "generation", "fault"), [row[1:] for row in VERSIONS], ids=[v[0] for v in VERSIONS]
)
def test_which_version_is_followed(versions, generation, fault):
    table = follow(*versions)
    assert table.generation == generation
    assert (table.table is None) == (generation == 0)
    assert fault in table.fault if fault else table.fault == ""


def test_what_it_has_said_is_read_from_the_status():
    status = {
        "gateways": [{"name": "gateway-b", "observedGeneration": 9}, {"name": "gateway-a", "observedGeneration": 3}]
    }
    assert follow(item(3, status=status)).acknowledged == 3
    assert follow(item(3)).acknowledged == 0
    assert follow(item(3, status={})).acknowledged == 0


def test_a_change_of_the_status_alone_changes_no_routes():
    first = follow(item(3))
    again = followed(item(3, status={"gateways": [{"name": "gateway-a", "observedGeneration": 3}]}), first, "gateway-a")
    assert again.table is first.table


def test_the_oldest_comes_first():
    def made(created: str, uid: str) -> FollowedTable:
        table = TaskRoute.model_validate(item() | {"metadata": {"name": created + uid}})
        return FollowedTable(uid, created, table, 1)

    tables = {("a", "1"): made("2", "b"), ("b", "1"): made("1", "z"), ("c", "1"): made("2", "a")}
    tables["d", "1"] = FollowedTable("x", "0", fault="never valid")
    assert [table.metadata.name for table in by_age(tables)] == ["1z", "2a", "2b"]


def routes(**tasks: dict[str, int]) -> TaskRoute:
    entries = [
        {
            "name": name,
            "type": "Generation",
            "fields": ["text"],
            "backends": [
                {"service": revision, "port": 8001, "weight": weight, "revision": revision}
                for revision, weight in weights.items()
            ],
        }
        for name, weights in tasks.items()
    ]
    spec = {"namespace": "team", "model": "desk", "tasks": entries}
    return TaskRoute.model_validate({"metadata": {"name": "desk"}, "spec": spec})


# the sentence, routes before and after, which revisions have servers, which tasks lose theirs
LOSSES = [
    ("the next revision is not known yet", {"a": {"old": 100}}, {"a": {"new": 100}}, ["old"], ["a"]),
    ("it is", {"a": {"old": 100}}, {"a": {"new": 100}}, ["old", "new"], []),
    ("the old one shares", {"a": {"old": 100}}, {"a": {"old": 90, "new": 10}}, ["old"], []),
    ("weight 0 serves nobody", {"a": {"old": 100}}, {"a": {"old": 0, "new": 100}}, ["old"], ["a"]),
    ("nothing is lost where nothing was", {"a": {"old": 100}}, {"a": {"new": 100}}, [], []),
    ("a new task loses nothing", {"a": {"old": 100}}, {"a": {"old": 100}, "b": {"new": 100}}, ["old"], []),
    ("a task that goes is not missed", {"a": {"old": 100}, "b": {"old": 100}}, {"a": {"old": 100}}, ["old"], []),
]


@pytest.mark.parametrize(("before", "after", "known", "lost"), [row[1:] for row in LOSSES], ids=[v[0] for v in LOSSES])
def test_which_tasks_would_lose_their_servers(before, after, known, lost):
    found = tasks_that_lose_their_servers(routes(**before), routes(**after), lambda each: each.revision in known)
    assert list(found) == lost
