"""A revision whose answers are quick, without errors, and wrong: only labels that callers report later can tell.

The counts are those of the gateways' own code, from the ids of answers to what the operator polls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import pytest

from multitask_api.resource.serving import Serving
from multitask_api.serving_io.gateway_state import GatewayState
from multitask_serving.gateway.labels.reports import LabelReports
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.stats import Stats
from support.rollout_world import START, World

TASKS = ("urgency", "stance")
KEY = b"k" * 32


@dataclass
class LabelledWorld(World):
    """Every request is answered "no"; gateways count by themselves."""

    stats: dict[str, Stats] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, LabelReports] = field(default_factory=dict)
    followed: dict[str, int] = field(default_factory=dict)

    def _follow(self) -> bool:
        changed = super()._follow()
        for name in self.gateways:
            if name not in self.stats:
                self.stats[name] = Stats()
                self.labels[name] = LabelReports(KEY, self.stats[name])
            if self.route is not None and self.followed.get(name) != self.generation:
                self.stats[name].follow(self.routes)
                self.followed[name] = self.generation
        return changed

    @property
    def routes(self) -> RouteTable:
        assert self.route is not None
        return RouteTable([self.route])

    def state_of(self, gateway: str) -> GatewayState | None:
        state = super().state_of(gateway)
        known = self.stats.get(gateway)
        return state and state.model_copy(update={"counts": known.window_counts() if known else ()})

    def answered(self, task_name: str, revision: str, requests: int) -> list[str]:
        """Requests of a task, by one gateway and then the other; their ids."""
        route = self.routes.resolve(task_name)
        ids = []
        for _, gateway in zip(range(requests), cycle(self.gateways), strict=False):
            self.stats[gateway].begin(route.full_name, revision).end(seconds=0.04)
            ids.append(self.labels[gateway].request_id(route, revision, "no", pinned=False))
        return ids

    def told(self, ids: list[str], right: int) -> int:
        """The labels of answers, of which so many are right, to any gateway; how many count."""
        resolve = self.routes.resolve
        return sum(
            self.labels[gateway].report(request_id, "no" if number < right else "yes", resolve)
            for number, (request_id, gateway) in enumerate(zip(ids, cycle(reversed(self.gateways)), strict=False))
        )


def rolling(**rollout: object) -> LabelledWorld:
    """The second revision is in its first step."""
    world = LabelledWorld(serving=Serving.model_validate({"rollout": rollout}, by_name=True, by_alias=True))
    world.trained("one", TASKS).settle()
    world.trained("two", TASKS).settle()
    return world


def traffic(world: LabelledWorld, requests: int = 60) -> Mapping[tuple[str, str], list[str]]:
    """(task, revision) → ids. Each revision that has a share of a task gets as many requests."""
    return {
        (name, revision): world.answered(name, revision, requests)
        for name, revisions in world.weights.items()
        for revision in revisions
    }


def test_a_task_whose_labels_alone_are_worse_goes_back_and_the_others_go_on():
    world = rolling()
    ids = traffic(world)
    world.settle()
    assert world.weights["urgency"] == {"one": 50, "two": 50}, "quick and without an error: the first step has passed"

    for name in TASKS:  # the labels come one step after the answers
        assert world.told(ids[name, "one"], right=54) == 60
        assert world.told(ids[name, "two"], right=54 if name == "stance" else 20) == 60
    world.after(31)

    assert world.weights == {"urgency": {"one": 100}, "stance": {"one": 50, "two": 50}}
    assert world.row("urgency").phase == "Failed"
    assert world.row("urgency").message == "33.3 % of 60 labelled answers right, 90.0 % of 60 before"
    (rejected,) = world.status.rejected
    assert (rejected.revision, rejected.task, rejected.reason) == ("two", "urgency", "AnalysisFailed")
    assert "TaskRolledBack" in world.reasons
    for _ in range(3):
        traffic(world)
        world.after(31)
    assert (world.phase, world.weights) == ("Successful", {"urgency": {"one": 100}, "stance": {"two": 100}})


#: sentence, labels of each revision that are right, of 60
AS_GOOD = [("as many", 50, 50), ("more", 40, 55), ("a few less, which may be chance", 54, 51), ("none at all", 0, 0)]


@pytest.mark.parametrize(("old", "new"), [row[1:] for row in AS_GOOD], ids=[row[0] for row in AS_GOOD])
def test_a_revision_with_as_many_right_answers_is_rolled_out(old: int, new: int):
    world = rolling()
    for _ in range(4):
        ids = traffic(world)
        for (name, revision), own in ids.items():
            if old or name == "stance":
                world.told(own, right=old if revision == "one" else new)
        world.after(31)
    assert (world.phase, world.weights) == ("Successful", {name: {"two": 100} for name in TASKS})


def test_labels_of_all_steps_count_together():
    """In each step they are too few to say anything."""
    world = rolling(steps=[10, 20, 30, 40, 50, 60, 100])
    shares = []
    for _ in range(6):
        ids = traffic(world)
        for (_, revision), own in ids.items():
            world.told(own[:12], right=11 if revision == "one" else 7)
        world.after(31)
        shares.append(world.weights["urgency"].get("two", 0))
    assert shares[0] == 20
    assert shares[-1] == 0, shares


@pytest.mark.parametrize("step", [{"pause": {}}, {"pause": {"duration": "24h"}}, {"analysis": {"minRequests": 10_000}}])
def test_labels_are_looked_at_however_few_requests_there_are(step: dict[str, object]):
    world = rolling(steps=[{"setWeight": 50}, step, {"setWeight": 100}])
    ids = traffic(world, requests=40)
    world.after(31)
    assert world.weights["urgency"] == {"one": 50, "two": 50}
    for (name, revision), own in ids.items():
        world.told(own, right=38 if revision == "one" or name == "stance" else 8)
    world.after(31)
    assert world.weights["urgency"] == {"one": 100}
    assert world.weights["stance"] == {"one": 50, "two": 50}


def test_a_revision_that_is_tried_again_is_judged_by_its_new_labels():
    world = rolling()
    ids = traffic(world)
    for (_, revision), own in ids.items():
        world.told(own, right=54 if revision == "one" else 20)
    world.after(31)
    assert (world.phase, world.row("urgency").phase) == ("Failed", "Failed")
    world.order("retry", "two")
    world.after(31)
    assert world.phase == "Progressing"
    assert world.told(ids["urgency", "two"], right=0) == 0, "they are of the rollout before"
    for _ in range(4):
        for own in traffic(world).values():
            world.told(own, right=54)
        world.after(31)
    assert (world.phase, world.weights) == ("Successful", {name: {"two": 100} for name in TASKS})


def test_labels_after_the_rollout_change_nothing():
    world = rolling()
    every = []
    for _ in range(4):
        every.append(traffic(world))
        world.after(31)
    assert world.phase == "Successful"
    writes = world.writes
    for ids in every:
        for own in ids.values():
            world.told(own, right=0)
    world.after(10_000)
    assert (world.phase, world.weights["urgency"]) == ("Successful", {"two": 100})
    assert world.now > START
    assert world.writes <= writes + 1
