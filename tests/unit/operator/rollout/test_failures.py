"""What makes a task fail in a step, what happens to it then, and what does not count as a failure."""

from __future__ import annotations

import pytest

from multitask_api.bundle import BASELINE
from multitask_api.resource.serving import Serving
from multitask_api.serving_io.verify import OtherDevice, TaskFlips
from support.rollout_world import DRAIN, World, agreement, serving_one, task

TASKS = ("urgency", "stance")


def rolling(**serving: object) -> World:
    """The second revision is in its first step."""
    return serving_one(**serving).trained("two", TASKS).settle()


def good(world: World, *names: str, requests: int = 60) -> None:
    """Both revisions answer, as fast as each other."""
    for name in names or TASKS:
        for revision in world.weights[name]:
            world.send(name, revision, requests)


#: sentence, requests of the old revision, requests of the new one, words of the message
WORSE = [
    ("one in five requests fails", {"requests": 500}, {"requests": 60, "errors": 12}, "20.0 % of 60 requests failed"),
    ("all of them fail", {"requests": 500}, {"requests": 50, "errors": 50}, "100.0 % of 50 requests failed"),
    ("callers' time-outs expire", {"requests": 500}, {"requests": 60, "errors": 20, "code": "DEADLINE_EXCEEDED"}, "33"),
    ("the new one is twice as slow", {"requests": 500}, {"requests": 60, "seconds": 0.09},
     "95th percentile 99 ms, 30 ms before"),
    ("one in three answers takes seconds", {"requests": 500}, {"requests": 60, "slow": 20}, "times as much is allowed"),
    ("its answers are wrong", {"requests": 500, "labels": (450, 50)}, {"requests": 60, "labels": (60, 60)},
     "50.0 % of 120 labelled answers right, 90.0 % of 500 before"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), [row[1:] for row in WORSE], ids=[row[0] for row in WORSE])
def test_a_task_that_is_surely_worse_goes_back_within_the_step_and_the_others_go_on(old, new, words):
    world = rolling()
    slow = new.get("slow", 0)
    sent = {key: value for key, value in new.items() if key != "slow"}
    world.send("urgency", "one", **{"seconds": 0.025, **old})
    world.send("urgency", "two", **{"seconds": 0.025, **sent, "requests": new["requests"] - slow})
    if slow:
        world.send("urgency", "two", slow, seconds=4.0)
    good(world, "stance")
    world.settle()
    assert world.weights == {"urgency": {"one": 100}, "stance": {"one": 50, "two": 50}}
    assert world.row("urgency").phase == "Failed"
    assert words in world.row("urgency").message
    (rejected,) = world.status.rejected
    assert (rejected.revision, rejected.task, rejected.reason) == ("two", "urgency", "AnalysisFailed")
    assert "TaskRolledBack" in world.reasons
    for _ in range(2):
        good(world, "stance")
        world.settle()
    world.after(1000)
    assert world.phase == "Successful"
    assert world.weights == {"urgency": {"one": 100}, "stance": {"two": 100}}
    assert world.live == {"one", "two"}, "both still answer"
    assert world.decision is not None
    assert world.decision.reason == "TasksExcluded"


#: sentence, old, new
AS_GOOD = [
    ("the same errors hit both", {"requests": 600, "errors": 60}, {"requests": 60, "errors": 6}),
    ("callers may not ask", {"requests": 600}, {"requests": 120, "errors": 60, "code": "PERMISSION_DENIED"}),
    ("one answer is slow", {"requests": 600}, {"requests": 59, "slow": 1}),
    ("it is a little slower", {"requests": 600, "seconds": 0.025}, {"requests": 60, "seconds": 0.029}),
    ("a few labels say nothing", {"requests": 600, "labels": (9, 1)}, {"requests": 60, "labels": (3, 1)}),
]


@pytest.mark.parametrize(("old", "new"), [row[1:] for row in AS_GOOD], ids=[row[0] for row in AS_GOOD])
def test_what_is_no_worse_passes(old, new):
    world = rolling()
    slow = new.get("slow", 0)
    world.send("urgency", "one", **old)
    world.send("urgency", "two", **{key: value for key, value in new.items() if key != "slow"})
    if slow:
        world.send("urgency", "two", slow, seconds=4.0)
    good(world, "stance")
    world.settle()
    assert world.weights["urgency"] == {"one": 50, "two": 50}


def test_a_difference_that_may_be_chance_waits_for_more_requests():
    world = rolling()
    world.send("urgency", "one", 500)
    world.send("urgency", "two", 50, errors=1)
    good(world, "stance")
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}
    assert world.row("urgency").measurements.inconclusive == 1
    world.after(29)
    assert world.row("urgency").measurements.inconclusive == 1, "one measurement in 30 s"
    world.send("urgency", "two", 150)
    world.after(1)
    assert world.weights["urgency"] == {"one": 50, "two": 50}


def test_too_many_unclear_measurements_wait_for_a_person_who_may_go_on_or_abort():
    world = rolling(rollout={"analysis": {"inconclusiveLimit": 2}})
    world.send("urgency", "one", 500)
    world.send("urgency", "two", 50, errors=1)
    good(world, "stance")
    world.settle()
    for _ in range(2):
        world.after(30)
    assert (world.phase, world.row("urgency").phase) == ("Paused", "Inconclusive")
    world.after(100_000)
    assert world.weights["urgency"] == {"one": 90, "two": 10}
    world.order("resume")
    world.send("urgency", "two", 200)
    world.settle()
    assert (world.phase, world.weights["urgency"]) == ("Progressing", {"one": 50, "two": 50})


def test_failed_measurements_are_allowed_up_to_the_limit():
    world = rolling(rollout={"analysis": {"failureLimit": 1}})
    world.send("urgency", "one", 500)
    world.send("urgency", "two", 60, errors=30)
    world.settle()
    assert world.weights["urgency"] == {"one": 90, "two": 10}
    world.after(30)
    assert world.weights["urgency"] == {"one": 100}


def test_several_measurements_may_be_needed_to_pass():
    world = rolling(rollout={"analysis": {"count": 3, "interval": "20s", "initialDelay": 60}})
    good(world)
    for seconds, weight in ((59, 10), (1, 10), (20, 10), (20, 50)):
        world.after(seconds)
        assert world.weights["urgency"]["two"] == weight, seconds


def test_a_few_requests_that_fail_hold_the_step_and_no_golden_request_excuses_them():
    world = rolling()
    world.send("urgency", "one", 20)
    world.send("urgency", "two", 4, errors=1)
    good(world, "stance")
    world.after(600)
    assert world.weights["urgency"] == {"one": 90, "two": 10}
    assert world.row("urgency").measurements.inconclusive == 1
    assert world.row("urgency").passed_on is None


def test_a_few_requests_that_all_fail_are_enough_at_the_end_of_the_step():
    world = rolling()
    world.send("urgency", "one", 20)
    world.send("urgency", "two", 9, errors=9)
    world.after(600)
    assert world.weights["urgency"] == {"one": 100}


def test_if_no_gateway_answers_nothing_is_decided_and_it_goes_on_when_one_does():
    world = rolling()
    world.dead = {"gateway-0", "gateway-1"}
    good(world)
    for _ in range(6):
        world.after(30)
    assert world.row("urgency").phase == "Error"
    assert "no gateway answered 6 times" in world.row("urgency").message
    assert world.weights["urgency"] == {"one": 90, "two": 10}
    world.dead = set()
    world.after(30)
    assert world.weights["urgency"] == {"one": 50, "two": 50}


def test_in_the_last_step_the_old_revision_is_compared_by_what_it_did_before():
    world = rolling()
    for _ in range(2):
        good(world)
        world.settle()
    assert world.weights["urgency"] == {"two": 100}
    world.send("urgency", "two", 100, errors=20)
    good(world, "stance")
    world.settle()
    assert world.weights["urgency"] == {"one": 100}
    assert world.weights["stance"] == {"two": 100}


def test_if_every_task_fails_the_revision_is_rejected_and_goes():
    world = rolling()
    for name in TASKS:
        world.send(name, "one", 500)
        world.send(name, "two", 60, errors=30)
    world.settle()
    assert world.phase == "Failed"
    assert {item.task for item in world.status.rejected} == {"urgency", "stance", ""}
    assert world.weights == {name: {"one": 100} for name in TASKS}
    world.after(DRAIN)
    assert world.live == {"one"}
    world.after(100_000)
    assert world.phase == "Failed"
    assert world.decision is not None
    assert "next: mtm rollout retry" in world.decision.message


def test_a_rejected_revision_is_tried_again_only_when_asked_and_once():
    world = serving_one()
    world.golden = {name: agreement(20, 3) for name in TASKS}
    world.trained("two", TASKS).settle()
    assert (world.phase, world.live) == ("Failed", {"one", "two"})
    world.after(DRAIN)
    assert world.live == {"one"}
    world.order("retry", "two")
    world.settle()
    assert world.phase == "Failed", "it fails again"
    assert len([key for key in world.reports if key.startswith("verify-retry")]) == 1
    world.golden = {}
    world.after(10_000)
    assert world.phase == "Failed", "the order was carried out"
    world.order("retry", "two")
    world.settle()
    assert world.phase == "Progressing"


def test_a_revision_that_is_tried_again_is_judged_by_its_new_requests():
    world = rolling()
    for name in TASKS:
        world.send(name, "one", 500)
        world.send(name, "two", 60, errors=30)
    world.settle()
    assert world.phase == "Failed"
    world.order("retry", "two")
    world.after(DRAIN)
    assert (world.phase, world.weights["urgency"]) == ("Progressing", {"one": 90, "two": 10})
    for _ in range(3):
        good(world)
        world.after(DRAIN)
    assert (world.phase, world.weights) == ("Successful", {name: {"two": 100} for name in TASKS})


def test_another_revision_is_tried():
    world = serving_one()
    world.golden = {name: agreement(20, 3) for name in TASKS}
    world.trained("two", TASKS).settle()
    world.golden = {}
    world.trained("three", TASKS).after(DRAIN)
    assert (world.status.rollout.revision, world.phase) == ("three", "Progressing")
    assert world.most_live == 2


def test_a_task_that_does_not_verify_has_no_traffic_and_the_others_have():
    world = serving_one()
    world.golden = {"urgency": agreement(20, 1)}
    world.trained("two", TASKS).settle()
    assert world.weights == {"urgency": {"one": 100}, "stance": {"one": 90, "two": 10}}
    assert world.status.rejected[0].reason == "VerificationFailed"


def test_no_golden_request_of_a_task_is_no_pass():
    world = World()
    world.golden = {"urgency": agreement(0)}
    world.trained("one", TASKS).settle()
    assert world.weights == {"stance": {"one": 100}}


@pytest.mark.parametrize(("most", "weight"), [(None, 10), (0.02, 10), (0.019, None), (0.0, None)])
def test_too_many_answers_that_were_right_may_hold_a_task_back(most: float | None, weight: int | None):
    world = serving_one(rollout={"maxRegressions": most})
    world.flips = {"urgency": TaskFlips(compared=500, right_to_wrong=10, wrong_to_right=60, basis="TestRows")}
    world.flips["stance"] = TaskFlips(compared=9, basis="GoldenRows")
    world.trained("two", TASKS).settle()
    assert world.weights["urgency"].get("two") == weight
    assert world.weights["stance"]["two"] == 10
    changed = world.row("urgency").changed_answers
    assert (changed.compared, changed.right_to_wrong, changed.wrong_to_right) == (500, 10, 60)
    assert world.row("stance").changed_answers.compared == 9


@pytest.mark.parametrize("measured_on", [("NVIDIA H100 80GB HBM3",), ("NVIDIA A100", "cpu")])
@pytest.mark.parametrize("lost", [{}, {"urgency": 0.02}])
def test_answers_of_another_kind_of_device_are_told_and_judged_by_score(lost: dict[str, float], measured_on):
    world = serving_one()
    world.golden = {"urgency": agreement(200, 5 if lost else 0)}
    world.other_device = OtherDevice(served_on=("NVIDIA L4",), measured_on=measured_on, tasks={"urgency": 5}, lost=lost)
    world.trained("two", TASKS).settle()
    row = world.row("urgency")
    assert row.phase == ("Failed" if lost else "Running")
    assert world.weights["urgency"] == ({"one": 100} if lost else {"one": 90, "two": 10})
    assert row.message.startswith(
        "5 of 200 golden requests answered otherwise than when evaluated, computed on NVIDIA L4"
    )
    assert all(device in row.message for device in measured_on)
    assert row.message.endswith("its score is 0.020 lower" if lost else "its score is as good")
    assert world.row("stance").message == ""


NOT_COMPARED = {
    "the old revision did not answer": ({}, {"urgency": "no server is available"}, "no server is available"),
    "its contract changed": ({}, {"urgency": "its type changed"}, "its type changed"),
    "there was no row": ({"urgency": TaskFlips(compared=0, basis="TestRows")}, {}, "no row was compared"),
    "nothing is said of it": ({}, {}, "no row was compared"),
}


@pytest.mark.parametrize("most", [0.0, 0.02, 1.0, None])
@pytest.mark.parametrize("sentence", NOT_COMPARED)
def test_a_limit_of_regressions_that_cannot_be_checked_holds_the_task_and_says_why(sentence: str, most: float | None):
    flips, not_compared, why = NOT_COMPARED[sentence]
    world = serving_one(rollout={"maxRegressions": most})
    world.flips = {"stance": TaskFlips(compared=100, basis="TestRows"), **flips}
    world.not_compared = not_compared
    world.trained("two", TASKS).settle()
    assert world.weights["stance"] == {"one": 90, "two": 10}
    if most is None:
        assert world.weights["urgency"] == {"one": 90, "two": 10}
        return
    assert world.weights["urgency"] == {"one": 100}
    row = world.row("urgency")
    assert row.phase == "Failed"
    assert f"not compared with those of revision one, which maxRegressions asks for: {why}; next: " in row.message
    assert [item.task for item in world.status.rejected] == ["urgency"]
    # it is compared when somebody asks for it again
    world.flips["urgency"], world.not_compared = TaskFlips(compared=100, basis="GoldenRows"), {}
    for _ in range(3):
        good(world, "stance")
        world.settle()
    world.order("retry", "two")
    world.after(DRAIN)
    assert world.weights["urgency"] == {"one": 90, "two": 10}


def test_where_there_never_was_an_old_revision_a_limit_of_regressions_says_nothing():
    world = World(serving=Serving.model_validate({"rollout": {"maxRegressions": 0.0}}))
    world.trained("one", TASKS).settle()
    assert world.weights == {name: {"one": 100} for name in TASKS}
    world.flips = {name: TaskFlips(compared=100, basis="TestRows") for name in TASKS}
    world.not_compared = {"topic": "its type, labels or fields are not those of the previous revision"}
    world.trained("two", [*TASKS, "topic"]).settle()
    assert world.weights["topic"] == {"two": 100}


def test_a_verification_that_cannot_run_decides_nothing():
    world = serving_one()
    world.job_failures = {"verify": "the gateway's address is wrong"}
    world.trained("two", TASKS).settle()
    assert (world.phase, world.weights["urgency"]) == ("Verifying", {"one": 100})
    assert world.decision is not None
    assert world.decision.message == "revision two could not be verified: the gateway's address is wrong"


# -- room for a third revision ---------------------------------------------------------------------------------------


def excluded(second: object) -> World:
    """The second revision serves stance; urgency failed and is still answered by the first."""
    world = serving_one().trained("two", [second, "stance"]).settle()  # type: ignore[list-item]
    world.send("urgency", "one", 500)
    world.send("urgency", "two", 60, errors=30)
    for _ in range(3):
        good(world, "stance")
        world.settle()
    world.after(10 * DRAIN)
    assert world.weights == {"urgency": {"one": 100}, "stance": {"two": 100}}
    return world


def test_before_a_third_revision_an_excluded_task_goes_to_its_single_task_model_in_the_newer_bundle():
    world = excluded(task("urgency", served_by=BASELINE))
    world.trained("three", TASKS).settle()
    assert world.weights == {name: {"two": 100} for name in TASKS}
    assert "TasksRehomed" in world.reasons
    assert world.live == {"one", "two"}
    world.after(DRAIN)
    assert world.live == {"two", "three"}
    assert world.weights == {name: {"two": 90, "three": 10} for name in TASKS}
    assert world.most_live == 2


def test_a_mixture_that_a_task_was_excluded_from_is_not_forced_on_it():
    world = excluded(task("urgency"))
    world.trained("three", TASKS).after(10_000)
    assert world.weights == {"urgency": {"one": 100}, "stance": {"two": 100}}
    assert world.decision is not None
    assert (world.decision.reason, world.most_live) == ("NoRoomForRevision", 2)
    assert "next: mtm rollout retry two" in world.decision.message
    world.order("promote", "three")
    world.after(DRAIN)
    world.after(DRAIN)
    assert world.live >= {"three"}
    assert world.most_live == 2


def test_an_excluded_task_is_tried_again_alone():
    world = excluded(task("urgency"))
    world.traffic.clear()
    world.order("retry", "two")
    world.settle()
    assert world.weights == {"urgency": {"one": 90, "two": 10}, "stance": {"two": 100}}
    for _ in range(3):
        good(world, "urgency")
        world.settle()
    assert world.weights == {name: {"two": 100} for name in TASKS}


def test_a_revision_whose_record_is_gone_gives_its_traffic_back():
    world = rolling()
    del world.revisions["two"]
    world.newest = "one"
    world.settle()
    assert world.weights == {name: {"one": 100} for name in TASKS}
    assert world.phase == "Aborted"


def test_a_task_keeps_its_entry_if_the_record_of_its_revision_is_gone():
    world = serving_one()
    entry = world.spec.tasks[0]
    world.revisions = {}
    world.newest = None
    world.settle()
    assert world.spec.tasks[0] == entry
