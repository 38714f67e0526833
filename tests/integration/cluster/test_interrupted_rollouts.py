"""Rollouts on a real API server whose operator is killed again and again, or has a twin.

That any single write may go wrong is tested on a simulated cluster; here are the real requests, conflicts and
controllers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from devcluster.cluster_client import ClusterClient
from devcluster.processes import until
from support.cluster.model_factory import apply, make_model
from support.cluster.served_model import OBJECTS, SECONDS, ServedModel, served_model

SERVING = {"replicas": 1, "rollout": {"steps": [50, 100], "minRequests": 50}}


class Rollouts:
    """One model, of which each rollout is another revision: other pods, the same bundle."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self.revision = model.until_rolled_out()
        model.hurry, model.is_asked = 10.0, True

    def next(self) -> dict[str, Any]:
        """Roll out another revision; where everything stands then."""
        model, before = self.model, self.revision
        env = [{"name": "BEFORE", "value": before}]
        pods = {"podTemplate": {"spec": {"containers": [{"name": "server", "env": env}]}}}
        apply(model.cluster, model.namespace, make_model("urgency", "intent", serving=SERVING | pods))
        self.revision = model.until_rolled_out(than=before)
        until("the servers of before are gone", lambda: self._is_gone(before), SECONDS)
        assert model.unanswered == []
        return self._end_state(before)

    def _is_gone(self, revision: str) -> bool:
        self.model.look()
        own = (item for item in self.model.get("Deployment") if item["metadata"]["name"].endswith(revision))
        return all(item["spec"]["replicas"] == 0 for item in own)

    def _end_state(self, before: str) -> dict[str, Any]:
        """Without names of revisions, and what follows from the time."""
        found = {kind: {item["metadata"]["name"]: item for item in self.model.get(kind)} for kind in OBJECTS}
        route = found["TaskRoute"]["desk"]
        rollout = route["status"]["rollout"]
        state = {
            "table": route["spec"],
            "rollout": [rollout["revision"], rollout["stable"], rollout["phase"]],
            "tasks": [[row["name"], row["phase"], row["passedOn"]] for row in rollout["tasks"]],
            "rejected": route["status"].get("rejected", []),
            "servers": {
                name: found["Deployment"][f"desk-serve-{name}"]["spec"]["replicas"] for name in (before, self.revision)
            },
            "objects": sorted(kind for kind in OBJECTS if f"desk-serve-{self.revision}" in found[kind]),
        }
        text = json.dumps(state).replace(self.revision, "NEW").replace(before, "OLD")
        return dict(json.loads(text))


@pytest.fixture(scope="module")
def rollouts(cluster: ClusterClient, rest: httpx.Client) -> Iterator[Rollouts]:
    """A model that is served."""
    resource = make_model("urgency", "intent", serving=SERVING)
    with served_model(cluster, rest, "interrupted-rollouts", resource) as model:
        yield Rollouts(model)


@pytest.fixture(scope="module")
def expected(rollouts: Rollouts) -> dict[str, Any]:
    """How a rollout ends that nobody interrupts."""
    return rollouts.next()


@pytest.mark.parametrize("writes", [1, 4])
def test_an_operator_that_is_killed_after_every_few_writes_ends_where_another_does(
    rollouts: Rollouts, expected: dict[str, Any], writes: int
) -> None:
    model = rollouts.model
    model.start_operators(lifetime=writes)
    kills = model.kills
    assert rollouts.next() == expected
    assert model.kills - kills >= 15 // writes


def test_two_operators_roll_out_and_then_write_nothing(rollouts: Rollouts, expected: dict[str, Any]) -> None:
    model = rollouts.model
    model.start_operators(2)
    assert rollouts.next() == expected
    before = model.all_versions()

    def is_quiet() -> bool:
        nonlocal before
        model.look()
        earlier, before = before, model.all_versions()
        return earlier == before

    until("nothing changes any more", is_quiet, SECONDS)
    for _ in range(4):
        model.hurry = 600.0
        model.look()
    assert model.all_versions() == before
