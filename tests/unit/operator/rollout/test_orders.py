"""What people order: pause, resume, promote, abort, roll back, pin, approve. And tasks that come, go or change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from multitask_api.resource.serving import Serving
from multitask_api.serving_io.names import APPROVAL_ANNOTATION, ROLLBACK_ANNOTATION
from support.rollout_world import DRAIN, World, serving_one, task

TASKS = ("urgency", "stance")


def rolling(**serving: object) -> World:
    """The second revision is in its first step."""
    return serving_one(**serving).trained("two", TASKS).settle()


def all_on(revision: str) -> dict[str, dict[str, int]]:
    return {name: {revision: 100} for name in TASKS}


def pass_step(world: World) -> None:
    for name, weights in world.weights.items():
        for revision in weights:
            world.send(name, revision, 60)
    world.settle()


def test_a_paused_rollout_keeps_its_weights_and_still_watches_for_failures():
    world = rolling()
    world.order("pause")
    world.settle()
    pass_step(world)
    world.after(10_000)
    assert (world.phase, world.weights["urgency"]) == ("Paused", {"one": 90, "two": 10})
    world.send("urgency", "two", 100, errors=60)
    world.after(60)
    assert world.weights["urgency"] == {"one": 100}
    world.order("resume")
    world.settle()
    assert (world.phase, world.weights["stance"]) == ("Progressing", {"one": 50, "two": 50})


def test_a_pause_before_the_first_step_holds_all_traffic():
    world = serving_one()
    world.jobs_run = False
    world.trained("two", TASKS).settle()
    world.order("pause")
    world.settle()
    world.jobs_run = True
    world.settle()
    assert (world.phase, world.weights) == ("Paused", all_on("one"))
    world.order("resume")
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}


def test_promote_skips_what_is_left_of_the_steps_but_not_the_servers():
    world = rolling()
    world.ready("two", 1)
    world.order("promote")
    world.settle()
    assert world.weights["urgency"] == {"one": 50, "two": 50}
    world.ready("two", 2)
    world.settle()
    assert (world.phase, world.weights) == ("Successful", all_on("two"))


def test_abort_gives_everything_back_and_the_revision_is_not_tried_again():
    world = rolling()
    world.order("abort")
    world.settle()
    assert (world.phase, world.weights) == ("Aborted", all_on("one"))
    assert world.status.rejected[0].reason == "Aborted"
    world.after(10_000)
    assert (world.phase, world.live) == ("Aborted", {"one"})
    world.order("retry", "two")
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}, "the old order to abort was carried out"


def test_an_order_for_another_revision_is_not_carried_out():
    world = rolling()
    world.order("abort", "seven")
    world.settle()
    assert (world.phase, world.weights["urgency"]) == ("Progressing", {"one": 90, "two": 10})


@pytest.mark.parametrize("how", ["annotation", "pin", "trained"])
def test_a_rollback_goes_straight_back_and_holds_the_newer_revision(how: str):
    world = rolling()
    for _ in range(3):
        pass_step(world)
    world.after(DRAIN)
    assert (world.weights, world.live) == (all_on("two"), {"two"})
    if how == "annotation":
        world.order("rollback", "one")
    else:
        pinned = "one" if how == "pin" else "trained-one"
        world.serving = world.serving.model_copy(update={"pinned_revision": pinned})
    world.settle()
    assert (world.weights, world.phase) == (all_on("one"), "Successful")
    world.after(DRAIN)
    assert world.live == {"one"}
    world.trained("three", TASKS).after(10_000)
    assert world.weights == all_on("one")
    assert world.decision is not None
    assert "three is not rolled out while one is pinned" in world.decision.message
    world.annotations.pop(ROLLBACK_ANNOTATION, None)
    world.serving = world.serving.model_copy(update={"pinned_revision": None})
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "three": 10}


def not_verified(world: World) -> None:
    world.jobs_run = False
    world.trained("two", TASKS).settle()
    world.trained("three", TASKS).settle()
    world.jobs_run = True


def not_approved(world: World) -> None:
    world.serving = world.serving.model_copy(update={"approval": "Manual"})
    world.trained("two", TASKS).settle()
    assert world.decision is not None
    assert world.decision.approval is not None
    world.trained("three", TASKS).settle()


def in_its_first_step(world: World) -> None:
    world.trained("two", TASKS).settle()
    world.trained("three", TASKS).settle()


STEPS_WITH_A_PAUSE = {"steps": [{"setWeight": 50}, {"pause": {}}, {"setWeight": 100}]}


def lose_servers(world: World) -> None:
    world.ready("two", 0)


def silence_a_gateway(world: World) -> None:
    world.dead = {"gateway-1"}
    world.generation += 1  # the other one has a later table


@pytest.mark.parametrize("seconds", [1, 30, 4000])
@pytest.mark.parametrize("trouble", [lose_servers, silence_a_gateway])
@pytest.mark.parametrize(
    "steps", [STEPS_WITH_A_PAUSE, {"steps": [{"setWeight": 50}, {"pause": {"duration": 9000}}, {"setWeight": 100}]}]
)
def test_an_order_to_resume_outlives_what_is_in_the_way(steps, trouble: Callable[[World], None], seconds: int):
    world = rolling(rollout=steps)
    assert world.weights["urgency"] == {"one": 50, "two": 50}
    trouble(world)
    world.after(1)
    world.order("resume")
    world.settle()
    world.after(seconds)
    assert world.weights["urgency"].get("two", 0) <= 50, "it goes on with what it has"
    world.dead = set()
    world.ready("two", 2)
    for _ in range(3):
        world.after(60)
    assert (world.phase, world.weights) == ("Successful", all_on("two"))


def test_an_order_to_resume_ends_one_pause_only():
    pause = {"pause": {}}
    world = rolling(rollout={"steps": [{"setWeight": 50}, pause, {"setWeight": 70}, pause, {"setWeight": 100}]})
    world.ready("two", 1)
    world.after(1)
    world.order("resume")
    world.after(60)
    world.ready("two", 2)
    for _ in range(3):
        world.after(60)
    assert (world.phase, world.weights["urgency"]) == ("Paused", {"one": 30, "two": 70})


PINS = pytest.mark.parametrize("how", ["annotation", "pin", "trained"])


def pin(world: World, how: str, revision: str) -> None:
    if how == "annotation":
        world.order("rollback", revision)
    else:
        pinned = revision if how == "pin" else f"trained-{revision}"
        world.serving = world.serving.model_copy(update={"pinned_revision": pinned})


@PINS
@pytest.mark.parametrize("replaced", [not_verified, not_approved, in_its_first_step])
def test_a_revision_that_has_not_served_takes_every_step_although_it_is_pinned(
    replaced: Callable[[World], None], how: str
):
    world = serving_one()
    replaced(world)
    world.after(DRAIN)
    world.reports.clear()
    pin(world, how, "two")
    world.settle().after(DRAIN)
    assert world.decision is not None
    if world.decision.approval is not None:
        assert world.weights == all_on("one")
        world.annotations[APPROVAL_ANNOTATION] = world.decision.approval
        world.settle()
    assert "two" in {report.revision for report in world.reports.values()}
    assert (world.phase, world.weights["urgency"]) == ("Progressing", {"one": 90, "two": 10})
    for _ in range(3):
        pass_step(world)
    assert (world.phase, world.weights) == ("Successful", all_on("two"))
    assert world.decision is not None
    assert "three is not rolled out while two is pinned" in world.decision.message
    pin(world, how, "one")
    world.settle()
    assert world.weights == all_on("one"), "it has served before"


@PINS
def test_a_revision_that_was_rejected_and_has_not_served_stays_rejected_although_it_is_pinned(how: str):
    world = rolling()
    world.order("abort")
    world.settle()
    world.trained("three", TASKS).settle().after(DRAIN)
    pin(world, how, "two")
    world.settle().after(10_000)
    assert world.weights == all_on("one")
    assert world.decision is not None
    assert world.decision.reason == "RevisionRejected"
    assert "mtm rollout retry" in world.decision.message


def test_a_revision_that_has_served_some_tasks_goes_back_to_one_that_has_served_all():
    world = rolling()
    world.send("urgency", "one", 900)
    world.send("urgency", "two", 100, errors=90)
    world.after(31)
    for _ in range(3):
        for revision in world.weights["stance"]:
            world.send("stance", revision, 300)
        world.after(31)
    assert world.weights == {"urgency": {"one": 100}, "stance": {"two": 100}}
    assert [(item.revision, item.tasks) for item in world.status.served] == [("one", TASKS), ("two", ("stance",))]
    world.order("retry")
    world.now += 1
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}
    world.order("rollback", "one")
    world.settle()
    assert world.weights == all_on("one")


def test_what_served_under_a_release_that_did_not_record_it_can_be_gone_back_to():
    world = rolling()
    for _ in range(3):
        pass_step(world)
    world.after(DRAIN)
    assert world.route is not None
    world.route = world.route.model_copy(update={"status": world.status.model_copy(update={"served": ()})})
    world.order("rollback", "one")
    world.settle()
    assert (world.phase, world.weights) == ("Successful", all_on("one"))


def test_a_rollback_in_the_middle_of_a_rollout_ends_it_at_once():
    world = rolling()
    world.order("rollback", "one")
    world.settle()
    assert (world.phase, world.weights) == ("Aborted", all_on("one"))
    world.after(DRAIN)
    assert world.live == {"one"}
    del world.annotations[ROLLBACK_ANNOTATION]
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}, "a rollback rejects nothing"


def test_a_pin_that_names_no_revision_changes_nothing_and_says_what_there_is():
    world = serving_one(pinnedRevision="gone")
    assert world.route is None
    assert world.decision is not None
    assert world.decision.message == "there is no revision gone to go back to; kept: one"


def test_a_newer_revision_replaces_one_that_is_on_its_way():
    world = rolling()
    world.trained("three", TASKS).settle()
    assert world.weights == all_on("one")
    assert world.live == {"one", "two"}
    world.after(DRAIN)
    assert (world.live, world.weights["urgency"]) == ({"one", "three"}, {"one": 90, "three": 10})
    assert world.most_live == 2
    assert not world.status.rejected


def test_a_revision_waits_for_approval_of_what_it_is():
    world = serving_one().trained("two", TASKS)
    world.serving = world.serving.model_copy(update={"approval": "Manual"})
    world.settle()
    assert (world.phase, world.weights) == ("Paused", all_on("one"))
    assert world.decision is not None
    wanted = world.decision.approval
    assert wanted is not None
    world.annotations[APPROVAL_ANNOTATION] = wanted[:-1] + ("0" if wanted[-1] != "0" else "1")
    world.after(10_000)
    assert world.weights == all_on("one")
    world.serving = world.serving.model_copy(
        update={"rollout": world.serving.rollout.model_copy(update={"min_requests": 1})}
    )
    world.annotations[APPROVAL_ANNOTATION] = wanted
    world.settle()
    assert world.weights == all_on("one"), "the rollout has other settings now"
    world.annotations[APPROVAL_ANNOTATION] = world.decision.approval or ""
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}


OTHER_SETTINGS = [
    {"steps": [100], "minRequests": 1, "analysis": {"maxErrorRateIncrease": 1}},
    {"steps": [{"setWeight": 100}]},
    {"steps": [10, 50, 100], "minRequests": 1},
    {"steps": [10, 90, 100], "maxRegressions": 1},
]


def approved_and_half_way() -> World:
    world = serving_one(approval="Manual", tasks=TASKS)
    approve(world)
    world.trained("two", TASKS).settle()
    approve(world)
    pass_step(world)
    assert world.weights["urgency"] == {"one": 50, "two": 50}
    return world


def approve(world: World) -> None:
    assert world.decision is not None
    assert world.decision.approval is not None
    world.annotations[APPROVAL_ANNOTATION] = world.decision.approval
    world.settle()


def give(world: World, rollout: dict[str, object]) -> None:
    world.serving = Serving.model_validate({"approval": "Manual", "rollout": rollout}, by_alias=True)
    world.settle()


@pytest.mark.parametrize("rollout", OTHER_SETTINGS)
def test_other_settings_in_the_middle_of_a_rollout_need_an_approval_of_their_own(rollout: dict[str, object]):
    world = approved_and_half_way()
    weights, first = world.weights, world.annotations[APPROVAL_ANNOTATION]
    give(world, rollout)
    for order in ("promote", "resume", "pause", "resume"):
        world.order(order)
        world.now += 1
        pass_step(world)
        world.after(2000)
        assert (world.phase, world.weights) == ("Paused", weights)
    assert world.decision is not None
    assert world.decision.reason == "ApprovalNeeded"
    assert world.decision.approval not in (None, first)
    assert world.reasons.count("ApprovalNeeded") == 3
    approve(world)
    for _ in range(3):
        for name in TASKS:
            for revision in ("one", "two"):
                world.send(name, revision, 300)
        world.after(31)
    assert (world.phase, world.weights) == ("Successful", all_on("two"))


@pytest.mark.parametrize("rollout", OTHER_SETTINGS)
def test_a_rollout_that_is_held_goes_on_without_another_approval_when_its_settings_are_back(
    rollout: dict[str, object],
):
    world = approved_and_half_way()
    give(world, rollout)
    del world.annotations[APPROVAL_ANNOTATION]
    give(world, {})
    for name in TASKS:
        for revision in ("one", "two"):
            world.send(name, revision, 300)
    world.after(31)
    assert world.weights["urgency"] == {"two": 100}


@pytest.mark.parametrize("rollout", OTHER_SETTINGS)
def test_a_rollout_that_is_held_still_takes_back_what_is_worse_and_can_be_aborted(rollout: dict[str, object]):
    world = approved_and_half_way()
    give(world, rollout)
    world.send("urgency", "one", 300)
    world.send("urgency", "two", 300, errors=200)
    world.after(60)
    assert world.weights == {"urgency": {"one": 100}, "stance": {"one": 50, "two": 50}}
    world.order("abort")
    world.settle()
    assert (world.phase, world.weights) == ("Aborted", all_on("one"))


def test_servers_that_get_ready_move_no_task_of_a_rollout_that_is_held():
    world = serving_one(approval="Manual", tasks=TASKS)
    approve(world)
    world.servers_start = False
    world.trained("two", [task("urgency", labels=("low", "high")), "stance"]).settle()
    world.ready("two", 1)
    world.settle()
    approve(world)
    weights = world.weights
    give(world, OTHER_SETTINGS[0])
    world.ready("two", 2)
    world.after(60)
    assert world.weights == weights


# -- tasks that come, go or change -----------------------------------------------------------------------------------


def test_an_added_task_is_there_with_the_first_step_and_gone_after_an_abort():
    world = serving_one().trained("two", [*TASKS, "topic"]).settle()
    assert world.weights["topic"] == {"two": 100}
    assert world.weights["urgency"] == {"one": 90, "two": 10}
    world.order("abort")
    world.settle()
    assert world.weights == all_on("one")


def test_a_removed_task_is_answered_until_the_rollout_is_over():
    world = serving_one().trained("two", ["urgency"]).settle()
    for _ in range(2):
        assert world.weights["stance"] == {"one": 100}
        pass_step(world)
    pass_step(world)
    assert world.weights == {"urgency": {"two": 100}}
    world.after(DRAIN)
    assert world.live == {"two"}


def test_a_task_whose_contract_changed_is_cut_over_and_an_abort_brings_it_back():
    changed = task("urgency", labels=("low", "high"))
    world = serving_one().trained("two", [changed, "stance"]).settle()
    assert world.weights == {"urgency": {"two": 100}, "stance": {"one": 90, "two": 10}}
    assert world.row("urgency").passed_on == "cut-over"
    assert world.spec.tasks[0].labels == ("low", "high")
    world.order("abort")
    world.settle()
    assert world.weights == all_on("one")
    assert world.spec.tasks[0].labels == ("no", "yes")


def test_without_a_wanted_server_the_sentence_says_so():
    world = World()
    world.trained("one", TASKS, replicas=0).settle()
    assert world.decision is not None
    assert "spec.serving.replicas is 0" in world.decision.message


def test_a_status_that_was_wiped_begins_the_rollout_again_from_the_table():
    world = rolling()
    assert world.route is not None
    world.route, world.copy = world.route.model_copy(update={"status": None}), None
    world.reports.clear()
    world.jobs_run = False
    world.tables.clear()
    world.settle()
    assert (world.phase, world.weights) == ("Verifying", all_on("one"))
    world.jobs_run = True
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}
