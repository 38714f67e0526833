"""A rollout from the first revision to the last step: what has the traffic when, and what each step waits for."""

from __future__ import annotations

import pytest

from multitask_operator.rollout import advance
from support.rollout_world import DRAIN, World, serving_one

TASKS = ("urgency", "stance")
ALL_ONE = {name: {"one": 100} for name in TASKS}
ALL_TWO = {name: {"two": 100} for name in TASKS}


def split(weight: int) -> dict[str, dict[str, int]]:
    return {name: {"one": 100 - weight, "two": weight} for name in TASKS}


def traffic(world: World, *, requests: int = 60) -> None:
    """Enough requests of every task, none of which fails."""
    for name in TASKS:
        for revision in world.weights[name]:
            world.send(name, revision, requests)


def test_the_first_revision_has_no_traffic_before_it_is_verified_and_all_of_it_then():
    world = World(jobs_run=False).trained("one", TASKS).settle()
    assert world.phase == "Verifying"
    assert world.weights == {"urgency": {}, "stance": {}}
    assert world.decision is not None
    assert world.decision.golden is not None
    assert (world.decision.golden.key, world.decision.golden.tasks) == ("verify", TASKS)
    world.jobs_run = True
    world.settle()
    assert world.phase == "Successful"
    assert world.weights == ALL_ONE
    assert world.reasons == ["RolloutStarted", "RevisionVerified", "RolloutSuccessful"]


def test_without_a_server_nothing_is_verified():
    world = World(servers_start=False).trained("one", TASKS).settle()
    assert world.phase == "Verifying"
    assert world.decision is not None
    assert (world.decision.golden, world.decision.message) == (None, "revision one: 0 of 2 servers are ready")


@pytest.mark.parametrize("torn", [False, True])
def test_a_second_revision_takes_over_step_by_step_on_traffic(torn: bool):
    """Also if the operator is killed after each write of the status."""
    world = World(torn=torn).trained("one", TASKS).settle().trained("two", TASKS).settle()
    for weight in (10, 50, 100):
        assert world.weights == split(weight) if weight < 100 else ALL_TWO
        assert world.phase == "Progressing"
        traffic(world)
        world.settle()
    assert (world.phase, world.weights) == ("Successful", ALL_TWO)
    assert {world.row(name).passed_on for name in TASKS} == {"traffic"}
    assert world.live == {"one", "two"}, "requests may still be under way"
    world.after(DRAIN + 1)
    assert world.live == {"two"}
    assert world.most_live == 2
    assert world.reasons.count("RolloutStarted") == 2


def test_every_step_counts_from_zero():
    world = serving_one().trained("two", TASKS).settle()
    windows = [world.window("urgency")]
    for _ in (10, 50):
        traffic(world)
        world.settle()
        windows.append(world.window("urgency"))
    assert windows == ["two/0", "two/1", "two/2"]


@pytest.mark.parametrize("requests", [0, 1, 49])
def test_too_few_requests_are_no_pass(requests: int):
    world = serving_one().trained("two", TASKS).settle()
    traffic(world, requests=requests)
    world.after(599)
    assert world.weights == split(10)
    assert "too few requests yet for urgency and stance" in world.status.rollout.message


def test_without_traffic_golden_requests_decide_after_the_time_of_a_step():
    world = serving_one().trained("two", TASKS).settle()
    for weight in (10, 50):
        assert world.weights == split(weight)
        world.after(600)
    assert {world.row(name).passed_on for name in TASKS} == {"golden"}
    world.after(600)
    assert (world.phase, world.weights) == ("Successful", ALL_TWO)
    assert [key.partition(" ")[0] for key in world.reports] == ["verify", "step-0", "step-1", "step-2"]


def test_golden_requests_that_are_never_answered_pass_nothing():
    world = serving_one().trained("two", TASKS).settle()
    world.jobs_run = False
    for _ in range(10):
        world.after(600)
    assert world.weights == split(10)


def test_golden_requests_of_an_earlier_rollout_of_the_revision_are_no_evidence():
    world = serving_one().trained("two", TASKS).settle()
    for _ in range(6):  # only stance needs golden requests
        world.send("urgency", "one", 100)
        world.send("urgency", "two", 100)
        world.after(600)
    assert world.weights == ALL_TWO
    for newest in ("one", "two"):
        world.newest = newest
        world.settle()
        for _ in range(7):
            world.after(600)
        assert (world.phase, world.status.rollout.revision) == ("Successful", newest)
    assert world.weights == ALL_TWO


def test_golden_requests_that_cannot_be_sent_are_told_with_the_reason():
    world = serving_one().trained("two", TASKS).settle()
    world.jobs_run = False
    world.after(600)
    world.job_failures = {world.decision.golden.key: "the gateway does not answer"}
    world.after(10)
    assert world.decision.message.endswith(
        "too few requests yet for urgency and stance; the golden requests in their place could not be sent: the gateway"
        " does not answer"
    )


def test_weight_stays_within_the_share_of_the_ready_servers():
    world = serving_one().trained("two", TASKS, replicas=4).settle()
    traffic(world)
    world.settle()
    assert world.weights == split(50)
    world.ready("two", 1)
    world.settle()
    assert world.weights == split(25)
    world.ready("two", 0)
    world.settle()
    assert world.weights == ALL_ONE
    traffic(world)
    world.settle()
    assert world.weights == ALL_ONE
    world.ready("two", 4)
    world.settle()
    assert world.weights == split(50)


def test_a_gateway_that_has_not_confirmed_the_table_holds_the_step():
    world = serving_one().trained("two", TASKS).settle()
    world.dead = {"gateway-1"}
    traffic(world)
    world.settle()
    traffic(world)
    world.settle()
    assert world.weights == split(50)
    assert "gateway-1 has not confirmed the table" in world.status.rollout.message
    world.dead = set()
    world.settle()
    assert world.weights == ALL_TWO


def test_a_gateway_that_restarts_loses_counts_and_nothing_fails():
    world = serving_one().trained("two", TASKS).settle()
    traffic(world, requests=40)
    world.settle()
    world.restart("gateway-0")
    world.after(60)
    assert (world.phase, world.weights) == ("Progressing", split(10))
    traffic(world)
    world.settle()
    assert world.weights == split(50)


def test_the_old_revision_stays_until_every_gateway_has_left_it_and_the_drain_is_over():
    world = serving_one().trained("two", TASKS).settle()
    for _ in range(3):
        traffic(world)
        world.settle()
    assert world.phase == "Successful"
    world.after(DRAIN - 1)
    assert "one" in world.live
    world.gateways = (*world.gateways, "gateway-2")
    world.dead = {"gateway-2"}
    world.after(10 * DRAIN)
    assert "one" in world.live
    world.dead = set()
    world.settle()
    assert "one" in world.live
    world.after(DRAIN)
    assert world.live == {"two"}


def test_single_steps_with_a_pause_that_somebody_ends():
    steps = [
        {"setWeight": 20},
        {"pause": {"duration": "2m"}},
        {"analysis": {"minRequests": 5}},
        {"setWeight": 60},
        {"pause": {}},
        {"setWeight": 100},
    ]
    world = serving_one(rollout={"steps": steps}).trained("two", TASKS).settle()
    assert world.weights == split(20)
    traffic(world, requests=5)
    world.after(119)
    assert world.weights == split(20)
    world.after(1)
    assert (world.weights, world.phase) == (split(60), "Paused")
    world.after(100_000)
    assert world.weights == split(60)
    world.order("resume")
    world.settle()
    assert (world.weights, world.phase) == (ALL_TWO, "Successful")


def test_every_change_is_made_once():
    world = serving_one().trained("two", TASKS).settle()
    traffic(world)
    stale = world.observe()
    world.settle()
    assert advance(stale) == advance(stale)
    writes = world.writes
    world.settle()
    assert world.writes == writes


@pytest.mark.parametrize("weights", [((100, "one"),), ((50, "one"), (50, "two")), ((0, "one"), (100, "two"))])
def test_a_table_that_was_edited_or_not_written_is_made_what_the_state_says(weights):
    world = serving_one().trained("two", TASKS).settle()
    for _ in range(3):
        traffic(world)
        world.settle()
    assert world.route is not None
    urgency, stance = world.spec.tasks
    backend = urgency.backends[0]
    backends = tuple(backend.model_copy(update={"weight": weight, "revision": name}) for weight, name in weights)
    tasks = (urgency.model_copy(update={"backends": backends}), stance)
    started = world.reasons.count("RolloutStarted")
    world.route = world.route.model_copy(update={"spec": world.spec.model_copy(update={"tasks": tasks})})
    world.settle()
    assert world.weights == ALL_TWO
    assert world.reasons.count("RolloutStarted") == started


@pytest.mark.parametrize("ready", [1, 2])
def test_a_first_revision_goes_on_answering_when_the_next_one_comes_before_all_its_servers_are_ready(ready: int):
    world = World(servers_start=False).trained("one", TASKS).settle()
    world.ready("one", ready, 3)
    world.settle()
    assert world.weights == ALL_ONE
    world.trained("two", TASKS).settle()
    assert world.weights == ALL_ONE
    world.ready("two", 2)
    for _ in range(3):
        traffic(world)
        world.settle()
    assert world.weights == ALL_TWO
