"""Somebody deletes a TaskRoute, or empties its status: who answers, what was rejected and how far a rollout is stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from multitask_api.bundle import BASELINE
from support.rollout_world import DRAIN, World, agreement, serving_one, task

TASKS = ("urgency", "stance")
LOSSES = pytest.mark.parametrize("lose", [World.delete_route, World.wipe_status])


def rolling() -> World:
    return serving_one().trained("two", TASKS).settle()


def fail(world: World, *tasks: str) -> World:
    for name in tasks:
        world.send(name, "one", 900)
        world.send(name, "two", 100, errors=90)
    return world.after(31)


def rejected_by_traffic() -> World:
    return fail(rolling(), *TASKS).settle().after(DRAIN)


def rejected_by_golden_requests() -> World:
    world = serving_one()
    world.golden = {name: agreement(20, 20) for name in TASKS}
    world = world.trained("two", TASKS).settle().after(DRAIN)
    world.golden = {}
    world.reports.clear()
    return world


def aborted() -> World:
    world = rolling()
    world.order("abort")
    return world.settle().after(DRAIN)


def one_task_excluded() -> World:
    world = fail(rolling(), "urgency")
    for _ in range(3):
        for revision in world.weights["stance"]:
            world.send("stance", revision, 300)
        world.after(31)
    return world


REJECTIONS = [rejected_by_traffic, rejected_by_golden_requests, aborted, one_task_excluded]


@LOSSES
@pytest.mark.parametrize("rejected", REJECTIONS)
def test_a_rejected_revision_stays_rejected_and_the_others_go_on_answering(
    rejected: Callable[[], World], lose: Callable[[World], None]
):
    world = rejected()
    weights, rejections, live = world.weights, world.status.rejected, world.live
    lose(world)
    for _ in range(3):
        world.step()
        assert (world.weights, world.live) == (weights, live)
    world.after(10_000)
    assert (world.weights, world.live, world.status.rejected) == (weights, live, rejections)
    assert world.phase in ("Failed", "Aborted", "Successful")


@LOSSES
@pytest.mark.parametrize("rejected", REJECTIONS)
def test_it_is_tried_again_when_somebody_asks_but_not_for_what_was_asked_before(
    rejected: Callable[[], World], lose: Callable[[World], None]
):
    world = rejected()
    before = world.weights
    world.order("retry", "two")
    world.settle()
    world.order("abort")
    world.settle()
    lose(world)
    world.after(60)
    assert world.weights == before, "the old order to retry was carried out"
    world.now += 1
    world.order("retry", "two")
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}


@LOSSES
def test_a_rollout_goes_on_at_its_step(lose: Callable[[World], None]):
    world = rolling()
    for name in TASKS:
        world.send(name, "one", 540)
        world.send(name, "two", 60)
    world.settle()
    weights = world.weights
    assert weights["urgency"] == {"one": 50, "two": 50}
    lose(world)
    for _ in range(4):
        world.step()
        assert (world.weights, world.live) == (weights, {"one", "two"})
    world.settle()
    assert (world.phase, world.weights, world.reasons.count("RolloutStarted")) == ("Progressing", weights, 2)
    for name in TASKS:
        world.send(name, "one", 300)
        world.send(name, "two", 300)
    world.after(31)
    assert world.weights["urgency"] == {"two": 100}


@LOSSES
def test_a_rollout_that_a_person_paused_stays_paused(lose: Callable[[World], None]):
    world = rolling()
    world.order("pause")
    world.settle()
    lose(world)
    world.after(10_000)
    assert (world.phase, world.weights["urgency"]) == ("Paused", {"one": 90, "two": 10})


def test_no_server_goes_before_every_gateway_has_the_table_again():
    world = rolling()
    world.order("promote")
    world.settle()
    world.dead = {"gateway-1"}
    world.delete_route()
    world.after(10_000)
    assert world.live == {"one", "two"}
    world.dead = set()
    world.settle().after(DRAIN)
    assert world.live == {"two"}


@LOSSES
def test_a_task_that_a_third_revision_still_answers_stays_there(lose: Callable[[World], None]):
    world = one_task_excluded()
    world.trained("three", [task("urgency", served_by=BASELINE), "stance"])
    lose(world)
    world.after(1)
    assert world.weights["urgency"] == {"one": 100}
    assert world.weights["stance"] == {"two": 100}
