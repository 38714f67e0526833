"""Servers that end while a rollout goes on: a pod that somebody takes away says nothing about its revision, a server
that ends by itself holds the step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from multitask_operator.reconciler.state.revision_state import RevisionState
from multitask_operator.rollout.inputs import STABLE_SECONDS
from support.rollout_world import World, serving_one

TASKS = ("urgency", "stance")
STARTED = "2026-11-28T09:00:00Z"
AT = 1_795_856_400.0


def container(state: dict[str, Any], last: dict[str, Any] | None = None, name: str = "server") -> dict[str, Any]:
    return {"name": name, "state": state, "lastState": last or {}}


def pod(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": list(containers)}}


RUNS = {"running": {"startedAt": STARTED}}
WAITS = {"waiting": {"reason": "CrashLoopBackOff"}}
CRASHED = {"terminated": {"exitCode": 139, "finishedAt": STARTED}}

#: the pods of a revision → when a server last began again
PODS: dict[str, tuple[tuple[dict[str, Any], ...], float | None]] = {
    "there is none": ((), None),
    "they have no status yet": (({"metadata": {"name": "p"}},), None),
    "both run": ((pod(container(RUNS)), pod(container(RUNS))), None),
    "one starts": ((pod(container(RUNS)), pod(container({"waiting": {"reason": "PodInitializing"}}))), None),
    "one has ended and runs again": ((pod(container(RUNS)), pod(container(RUNS, CRASHED))), AT),
    "one waits before it runs again": ((pod(container(RUNS)), pod(container(WAITS, CRASHED))), math.inf),
    "one has ended just now": ((pod(container(RUNS)), pod(container(CRASHED))), math.inf),
    "a side car has ended": ((pod(container(RUNS), container(RUNS, CRASHED, name="proxy")),), None),
}


@pytest.mark.parametrize("sentence", PODS)
def test_when_a_server_began_again(sentence):
    pods, expected = PODS[sentence]
    assert RevisionState("r", pods=pods).restarted == expected


def step(world: World) -> None:
    """Enough good requests for both revisions, and time."""
    for name in TASKS:
        for revision in world.weights[name]:
            world.send(name, revision, 200)
    world.settle()


def restarts(world: World, at: float | None) -> None:
    world.revisions["two"] = replace(world.revisions["two"], restarted=at)


@pytest.mark.parametrize("step_number", [0, 1])
def test_a_server_that_ends_by_itself_holds_the_step_until_it_has_run_for_a_while(step_number):
    world = serving_one().trained("two", TASKS).settle()
    for _ in range(step_number):
        step(world)
    before = dict(world.weights)
    restarts(world, math.inf)  # what it took down was answered by others, so the counts are good
    step(world)
    world.after(100_000)
    assert world.weights == before
    assert world.decision is not None
    assert "ended by itself" in world.decision.message
    restarts(world, world.now)
    world.after(STABLE_SECONDS - 1)
    assert world.weights == before
    world.after(1)
    assert world.weights != before
    assert not world.status.rejected


def test_one_that_ends_again_and_again_never_gets_all_traffic():
    world = serving_one().trained("two", TASKS).settle()
    for _ in range(50):
        restarts(world, world.now)
        step(world)
        world.after(STABLE_SECONDS / 2)
    assert world.weights == {name: {"one": 90, "two": 10} for name in TASKS}


def test_a_person_may_move_the_traffic_nevertheless():
    world = serving_one().trained("two", TASKS).settle()
    restarts(world, math.inf)
    world.order("promote")
    world.settle()
    assert world.phase == "Successful"
