"""A rollout needs a place among those of the installation to begin, and again after it has waited for a person."""

from __future__ import annotations

import pytest

from multitask_api.resource.serving import Serving
from multitask_api.serving_io.names import APPROVAL_ANNOTATION
from support.rollout_world import World, serving_one

TASKS = ("urgency", "stance")
FULL = "the installation lets 1 model roll out at a time, now team-b/inbox"
FIRST_STEP = {"one": 90, "two": 10}


def approve(world: World) -> None:
    assert world.decision is not None
    assert world.decision.approval
    world.annotations[APPROVAL_ANNOTATION] = world.decision.approval
    world.settle()


def waiting_for_approval() -> World:
    """The first revision has all traffic, the second one is verified."""
    world = serving_one(approval="Manual")
    approve(world)
    return world.trained("two", TASKS).settle()


def test_a_new_revision_waits_until_there_is_a_place():
    world = serving_one()
    world.queued = FULL
    world.trained("two", TASKS).settle()
    assert world.decision is not None
    assert (world.decision.reason, world.live, world.phase) == ("WaitingForOtherModels", {"one"}, "Successful")
    assert FULL in world.decision.message
    assert world.decision.requeue_after is not None
    world.queued = ""
    world.settle()
    assert world.weights["urgency"] == FIRST_STEP


def test_a_revision_that_is_tried_again_waits_until_there_is_a_place():
    world = serving_one().trained("two", TASKS).settle()
    world.order("abort")
    world.settle().after(10_000)
    world.queued = FULL
    world.order("retry", "two")
    world.settle()
    assert (world.live, world.phase) == ({"one"}, "Aborted")
    world.queued = ""
    world.settle()
    assert world.weights["urgency"] == FIRST_STEP


@pytest.mark.parametrize("approval", ["Automatic", "Manual"])
def test_the_first_revision_waits_for_nobody(approval):
    world = World(queued=FULL, serving=Serving.model_validate({"approval": approval})).trained("one", TASKS).settle()
    if approval == "Manual":
        approve(world)
    assert world.weights == {name: {"one": 100} for name in TASKS}


def test_a_rollback_waits_for_nobody():
    world = serving_one().trained("two", TASKS).settle()
    world.order("promote")
    world.settle()
    assert world.weights["urgency"] == {"two": 100}
    world.queued = FULL
    world.order("rollback", "one")
    world.settle()
    assert world.weights["urgency"] == {"one": 100}


def test_a_rollout_that_is_under_way_goes_on():
    world = serving_one().trained("two", TASKS).settle()
    world.queued = FULL
    for name in TASKS:
        for revision in FIRST_STEP:
            world.send(name, revision, 60)
    world.settle()
    assert world.weights["urgency"] == {"one": 50, "two": 50}


def test_an_approved_rollout_waits_until_there_is_a_place():
    world = waiting_for_approval()
    world.queued = FULL
    approve(world)
    world.after(10_000)
    assert world.decision is not None
    assert (world.decision.reason, world.phase) == ("WaitingForOtherModels", "Paused")
    assert world.weights["urgency"] == {"one": 100}
    world.queued = ""
    world.settle()
    assert (world.phase, world.weights["urgency"]) == ("Progressing", FIRST_STEP)


def test_a_rollout_whose_new_settings_are_approved_in_the_middle_waits_until_there_is_a_place():
    world = waiting_for_approval()
    approve(world)
    assert world.weights["urgency"] == FIRST_STEP
    settings = {"approval": "Manual", "rollout": {"maxStepSeconds": 1200}}
    world.serving = Serving.model_validate(settings, by_alias=True)
    world.settle()
    assert world.phase == "Paused"
    world.queued = FULL
    approve(world)
    world.after(100)
    assert world.decision is not None
    assert (world.decision.reason, world.phase) == ("WaitingForOtherModels", "Paused")
    assert world.weights["urgency"] == FIRST_STEP
    world.queued = ""
    world.after(1)
    assert (world.phase, world.weights["urgency"]) == ("Progressing", FIRST_STEP)


def test_one_that_was_approved_before_it_was_verified_keeps_its_place():
    first = waiting_for_approval()
    assert first.decision is not None
    world = serving_one(approval="Manual")
    approve(world)
    world.annotations[APPROVAL_ANNOTATION] = first.decision.approval or ""
    world.jobs_run = False
    world.trained("two", TASKS).settle()
    world.queued, world.jobs_run = FULL, True
    world.settle()
    assert world.weights["urgency"] == FIRST_STEP


@pytest.mark.parametrize("is_begun", [False, True], ids=["before the first step", "in the first step"])
def test_a_resumed_rollout_waits_until_there_is_a_place_and_the_order_is_not_lost(is_begun):
    world = serving_one()
    world.jobs_run = is_begun
    world.trained("two", TASKS).settle()
    world.order("pause")
    world.settle()
    world.jobs_run = True
    world.settle()
    before = world.weights["urgency"]
    world.queued = FULL
    world.order("resume")
    for _ in range(3):
        world.after(100)
        assert world.decision is not None
        assert (world.decision.reason, world.phase) == ("WaitingForOtherModels", "Paused")
        assert world.weights["urgency"] == before
    world.queued = ""
    world.settle()
    assert (world.phase, world.weights["urgency"]) == ("Progressing", FIRST_STEP)


def test_the_pause_of_a_step_is_over_once_there_is_a_place_for_who_resumed_it():
    steps = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}, {"setWeight": 100}]
    world = serving_one(rollout={"steps": steps}).trained("two", TASKS).settle()
    assert world.phase == "Paused"
    world.queued = FULL
    world.order("resume")
    world.after(100)
    assert (world.phase, world.weights["urgency"]) == ("Paused", FIRST_STEP)
    world.queued = ""
    world.settle()
    assert world.weights["urgency"] == {"one": 50, "two": 50}


@pytest.mark.parametrize(("order", "expected"), [("promote", {"two": 100}), ("abort", {"one": 100})])
def test_other_orders_of_a_person_wait_for_nobody(order, expected):
    world = serving_one().trained("two", TASKS).settle()
    world.order("pause")
    world.settle()
    world.queued = FULL
    world.order(order)
    world.settle()
    assert world.weights["urgency"] == expected


def test_a_task_that_fails_goes_back_while_the_resumed_rollout_waits():
    world = serving_one().trained("two", TASKS).settle()
    world.order("pause")
    world.settle()
    world.queued = FULL
    world.order("resume")
    world.settle()
    world.send("urgency", "one", 100)
    world.send("urgency", "two", 100, errors=60)
    world.after(60)
    assert world.weights["urgency"] == {"one": 100}
    assert world.weights["stance"] == FIRST_STEP
