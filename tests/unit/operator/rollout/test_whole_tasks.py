"""Tasks that no old revision answers in the same way: of a changed contract, or new. They cannot be shared or compared,
so they move as a whole, when there are servers, and their errors are measured alone."""

from __future__ import annotations

import pytest

from support.rollout_world import DRAIN, World, serving_one, task

CHANGED = task("urgency", labels=("low", "high"))
TASKS = ("urgency", "stance")
OLD, NEW = ("no", "yes"), ("low", "high")


def rolling(*tasks, replicas: int = 10, ready: int | None = None, **serving: object) -> World:
    """The second revision, with so many ready servers, is verified."""
    world = serving_one(**serving)
    world.servers_start = False
    world.trained("two", tasks or [CHANGED, "stance", "topic"], replicas=replicas).settle()
    world.ready("two", replicas if ready is None else ready)
    world.settle()
    return world


def labels(world: World, name: str) -> tuple[str, ...]:
    return next(entry.labels for entry in world.spec.tasks if entry.name == name)


def ask(world: World, *names: str, requests: int = 60, errors: int = 0) -> None:
    """Requests, and time for one measurement."""
    for name in names:
        for revision in world.weights.get(name, {}):
            world.send(name, revision, requests, errors=errors if revision == "two" else 0)
    world.after(30)


# -- servers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ready", "replicas"), [(0, 10), (1, 10), (5, 10), (9, 10), (1, 2)])
def test_a_cut_over_waits_for_all_servers_and_a_new_task_for_the_first(ready: int, replicas: int):
    world = rolling(ready=ready, replicas=replicas)
    assert world.weights["urgency"] == {"one": 100}
    assert labels(world, "urgency") == OLD
    assert world.weights["topic"] == ({"two": 100} if ready else {})
    world.ready("two", replicas)
    world.settle()
    assert world.weights["urgency"] == {"two": 100}
    assert labels(world, "urgency") == NEW
    assert world.weights["topic"] == {"two": 100}


def test_a_step_does_not_wait_for_servers_that_only_a_cut_over_needs_but_the_last_one_does():
    world = rolling(ready=9)
    ask(world, "stance", "topic")
    assert world.weights["stance"] == {"one": 50, "two": 50}
    ask(world, "stance", "topic")
    world.after(10_000)
    assert world.weights["urgency"] == {"one": 100}
    assert world.phase == "Progressing"
    assert world.decision is not None
    assert "9 of 10 servers are ready" in world.decision.message
    world.ready("two", 10)
    world.settle()
    assert world.weights["urgency"] == {"two": 100}
    ask(world, "stance", "topic")
    assert world.phase == "Progressing", "nobody has asked for it yet"
    ask(world, "urgency")
    assert world.phase == "Successful"


#: ready servers of the old and of the new revision after the cut-over → who has the traffic
LOST = [(2, 10, "two"), (2, 1, "two"), (0, 1, "two"), (0, 0, "two"), (2, 0, "one"), (1, 0, "one")]


@pytest.mark.parametrize(("old", "new", "expected"), LOST)
def test_it_leaves_servers_that_are_gone_for_servers_that_are_there(old: int, new: int, expected: str):
    world = rolling()
    assert world.weights["urgency"] == {"two": 100}
    world.ready("one", old)
    world.ready("two", new)
    world.settle()
    assert world.weights["urgency"] == {expected: 100}
    assert labels(world, "urgency") == (NEW if expected == "two" else OLD)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("errors", [12, 60])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_too_many_errors_of_a_cut_over_bring_the_old_contract_back_in_every_step(errors: int, step: int):
    world = rolling()
    for _ in range(step):
        ask(world, "urgency", "stance", "topic")
    ask(world, "urgency", errors=errors)
    assert world.weights["urgency"] == {"one": 100}
    assert labels(world, "urgency") == OLD
    assert world.row("urgency").phase == "Failed"
    assert f"{100 * errors / 60:.1f} % of 60 requests failed, 1 % may" in world.row("urgency").message
    assert [item.task for item in world.status.rejected] == ["urgency"]
    for _ in range(3):
        ask(world, "stance", "topic")
    assert world.phase == "Successful"
    assert world.weights == {"urgency": {"one": 100}, "stance": {"two": 100}, "topic": {"two": 100}}


@pytest.mark.parametrize("errors", [12, 60])
def test_a_new_task_that_fails_has_no_route_and_the_others_go_on(errors: int):
    world = rolling("urgency", "stance", "topic")
    ask(world, "topic", errors=errors)
    assert "topic" not in world.weights
    assert world.row("topic").phase == "Failed"
    (event,) = [event for event in world.events if event.reason == "TaskRolledBack"]
    assert event.message.startswith("topic is not routed any more: ")
    for _ in range(3):
        ask(world, "urgency", "stance")
    assert world.phase == "Successful"
    world.after(100_000)
    assert world.weights == {"urgency": {"two": 100}, "stance": {"two": 100}}
    world.order("retry", "two")
    world.settle()
    assert world.weights["topic"] == {"two": 100}


def test_one_that_fails_at_the_very_end_has_no_route_either():
    world = rolling("urgency", "stance", "topic", rollout={"steps": [100]})
    for name in TASKS:
        world.send(name, "two", 60)
    ask(world, "topic", errors=30)
    world.settle()
    assert world.phase == "Successful"
    assert world.weights == {"urgency": {"two": 100}, "stance": {"two": 100}}


@pytest.mark.parametrize("name", ["urgency", "topic"])
def test_errors_that_may_be_chance_are_measured_again_and_shown(name: str):
    world = rolling()
    others = {"urgency", "stance", "topic"} - {name}
    ask(world, *others)
    ask(world, name, requests=50, errors=1)
    assert world.weights["stance"] == {"one": 90, "two": 10}
    assert world.row(name).measurements.inconclusive == 1
    assert "2.0 % of 50 requests failed" in world.row(name).message
    world.send(name, "two", 250)
    world.after(30)
    assert world.weights["stance"] == {"one": 50, "two": 50}
    assert world.row(name).passed_on == "traffic"
    assert "0.3 % of 300 requests failed" in world.row(name).message


@pytest.mark.parametrize("allowed", [0.01, 0.3])
def test_how_many_may_fail_is_what_the_resource_says(allowed: float):
    world = rolling(rollout={"analysis": {"maxErrorRateIncrease": allowed}})
    ask(world, "urgency", errors=12)
    assert world.row("urgency").phase == ("Failed" if allowed < 0.2 else "Running")


def test_without_traffic_golden_requests_decide():
    world = rolling()
    ask(world, "stance")
    world.after(569)
    assert world.weights["stance"] == {"one": 90, "two": 10}
    world.after(1)
    world.after(30)  # the next measurement
    assert world.weights["stance"] == {"one": 50, "two": 50}
    assert (world.row("urgency").passed_on, world.row("topic").passed_on) == ("golden", "golden")


# -- steps -------------------------------------------------------------------------------------------------------------

ALL_CHANGED = (CHANGED, task("stance", labels=("pro", "contra")))
PAUSED = {"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 100}, {"analysis": {}}]}


@pytest.mark.parametrize("tasks", [ALL_CHANGED, ("topic",), (*ALL_CHANGED, "topic")])
def test_if_nothing_can_be_compared_a_pause_holds_until_somebody_resumes(tasks):
    world = rolling(*tasks, rollout=PAUSED)
    names = [item if isinstance(item, str) else item.name for item in tasks]
    ask(world, *names)
    world.after(100_000)
    assert world.phase == "Paused"
    world.order("resume")
    world.settle()
    assert world.phase == "Progressing"
    ask(world, *names)
    assert world.phase == "Successful"


def test_if_nothing_can_be_compared_errors_end_the_rollout():
    world = rolling(*ALL_CHANGED)
    ask(world, *TASKS, errors=50)
    assert world.phase == "Failed"
    assert world.weights == {name: {"one": 100} for name in TASKS}
    assert labels(world, "urgency") == OLD


def test_a_task_that_moved_as_a_whole_is_measured_once():
    world = rolling(*ALL_CHANGED)
    ask(world, *TASKS)
    assert world.phase == "Successful"


def test_the_first_revision_of_a_model_waits_for_nobody():
    world = World().trained("one", TASKS).settle()
    assert world.phase == "Successful"
    assert world.weights == {name: {"one": 100} for name in TASKS}


def test_before_a_third_revision_a_person_moves_a_task_that_kept_its_old_contract():
    world = rolling(CHANGED, "stance", replicas=2)
    ask(world, "urgency", errors=50)
    for _ in range(3):
        ask(world, "stance")
    assert world.weights == {"urgency": {"one": 100}, "stance": {"two": 100}}
    world.servers_start = True
    world.trained("three", [CHANGED, "stance"]).after(DRAIN)
    assert world.decision is not None
    assert world.decision.reason == "NoRoomForRevision"
    world.order("promote", "three")
    world.after(DRAIN)
    world.after(DRAIN)
    assert world.weights == {"urgency": {"three": 100}, "stance": {"three": 100}}
