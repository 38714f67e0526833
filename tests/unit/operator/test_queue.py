"""The work queue: each key once, when it is due, and no key on the back of another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask_api.errors import RetryableError
from multitask_operator.queue import Backoff, Queue, Schedule
from support.virtual_time import run


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Step = tuple[object, ...]

# name, steps (at SECOND, then what is done and what it gives)
STORIES: list[tuple[str, list[Step]]] = [
    ("nothing is due in an empty queue", [(0, "take", None), (0, "next", None), (0, "oldest", 0.0)]),
    (
        "a key added twice is served once",
        [(0, "add", "a", 0), (0, "add", "a", 0), (0, "take", "a"), (0, "done", "a", None), (0, "take", None)],
    ),
    (
        "the key that is due longest comes first",
        [(0, "add", "late", 2), (0, "add", "early", 1), (3, "take", "early"), (3, "take", "late")],
    ),
    (
        "a delayed key is not due before its time",
        [(0, "add", "a", 5), (4, "take", None), (4, "next", 1.0), (5, "take", "a")],
    ),
    (
        "of two delays the shorter counts, in either order",
        [
            (0, "add", "a", 9),
            (0, "add", "a", 2),
            (0, "add", "b", 2),
            (0, "add", "b", 9),
            (2, "take", "a"),
            (2, "take", "b"),
            (9, "done", "a", None),
            (9, "done", "b", None),
            (99, "take", None),
        ],
    ),
    (
        "a key is never served twice at once, and what came meanwhile is not forgotten",
        [
            (0, "add", "a", 0),
            (0, "take", "a"),
            (1, "add", "a", 0),
            (1, "take", None),
            (1, "next", None),
            (2, "done", "a", None),
            (2, "take", "a"),
        ],
    ),
    (
        "an older wish for the same second does not let a key run twice",
        [
            (0, "add", "a", 10),
            (0, "add", "a", 0),
            (0, "take", "a"),
            (0, "add", "a", 10),
            (10, "take", None),
            (11, "done", "a", None),
            (11, "take", "a"),
        ],
    ),
    (
        "a key asks to be looked at again, an event comes sooner",
        [
            (0, "add", "a", 0),
            (0, "take", "a"),
            (0, "done", "a", 600),
            (0, "next", 600.0),
            (7, "add", "a", 0),
            (7, "take", "a"),
        ],
    ),
    (
        "waits double with every failure in a row",
        [
            (0, "add", "a", 0),
            (0, "take", "a"),
            (0, "failed", "a", 1.0),
            (1, "take", "a"),
            (1, "failed", "a", 2.0),
            (2, "take", None),
            (3, "take", "a"),
            (3, "failed", "a", 4.0),
        ],
    ),
    (
        "a success ends the backoff",
        [
            (0, "add", "a", 0),
            (0, "take", "a"),
            (0, "failed", "a", 1.0),
            (1, "take", "a"),
            (1, "done", "a", 0),
            (1, "take", "a"),
            (1, "failed", "a", 1.0),
        ],
    ),
    (
        "events do not drive a failing key faster than its first wait",
        [
            (0, "add", "a", 0),
            (0, "take", "a"),
            (0, "add", "a", 0),
            (0, "failed", "a", 1.0),
            (0.5, "add", "a", 0),
            (0.5, "take", None),
            (1, "take", "a"),
        ],
    ),
    (
        "an event cuts a long backoff short",
        [(0, "broken", "a", 9), (511, "failed", "a", 256.0), (517, "add", "a", 0), (517, "take", "a")],
    ),
    (
        "but not shorter than the rest after a failure",
        [
            (0, "broken", "a", 9),
            (511, "failed", "a", 256.0),
            (512, "add", "a", 0),
            (515, "take", None),
            (516, "take", "a"),
        ],
    ),
    (
        "a key in backoff does not hold up another",
        [(0, "broken", "a", 9), (511, "failed", "a", 256.0), (511, "add", "b", 0), (511, "take", "b")],
    ),
    (
        "age counts from when the oldest key was due, not from when it was added",
        [(0, "add", "a", 5), (3, "oldest", 0.0), (8, "add", "b", 0), (9, "oldest", 4.0)],
    ),
    (
        "a key that is being served counts as unserved until it is done",
        [
            (0, "add", "a", 0),
            (2, "take", "a"),
            (9, "oldest", 9.0),
            (9, "add", "a", 0),
            (9, "done", "a", None),
            (11, "oldest", 2.0),
        ],
    ),
    (
        "a key that failed and waits is not unserved",
        [(0, "add", "a", 0), (0, "take", "a"), (0, "failed", "a", 1.0), (0.5, "oldest", 0.0)],
    ),
]


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in STORIES])
def test_schedule(steps: Sequence[Step]) -> None:
    clock = Clock()
    schedule: Schedule[str] = Schedule(clock)
    for second, what, *rest in steps:
        clock.now = max(clock.now, float(second))
        match what, rest:
            case "add", [key, delay]:
                schedule.add(key, delay)
            case "take", [key]:
                assert schedule.take() == key, f"at {second}"
            case "done", [key, again]:
                schedule.done(key, again)
            case "failed", [key, wait]:
                assert schedule.failed(key) == wait, f"at {second}"
            case "broken", [key, failures]:  # fails each time it is due; the next failure is the caller's
                schedule.add(key)
                for _ in range(failures - 1):
                    clock.now += schedule.seconds_to_next()
                    assert schedule.take() == key
                    schedule.failed(key)
                clock.now += schedule.seconds_to_next()
                assert schedule.take() == key
            case "next", [seconds]:
                assert schedule.seconds_to_next() == seconds, f"at {second}"
            case "oldest", [seconds]:
                assert schedule.oldest() == seconds, f"at {second}"


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (9, 256), (10, 300), (5000, 300)])
def test_backoff_ends_at_five_minutes(failures: int, seconds: float) -> None:
    assert Backoff().wait(failures) == seconds


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.sampled_from([0.0, 1.0, 10.0])),
        st.tuples(st.just("take")),
        st.tuples(st.just("finish"), st.integers(0, 2), st.sampled_from([None, 0.0, 1.0, "failed"])),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 5.0])),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_whatever_happens_no_key_runs_twice_and_every_added_key_is_served_in_the_end(operations: list[Step]) -> None:
    clock = Clock()
    schedule: Schedule[str] = Schedule(clock)
    running: list[str] = []
    unserved: set[str] = set()

    def take() -> None:
        key = schedule.take()
        if key is not None:
            assert key not in running
            running.append(key)
            unserved.discard(key)

    for what, *rest in operations:
        if what == "add":
            schedule.add(*rest)
            unserved.add(rest[0])
        elif what == "take":
            take()
        elif what == "finish" and len(running) > rest[0]:
            key = running.pop(rest[0])
            schedule.failed(key) if rest[1] == "failed" else schedule.done(key, rest[1])
        elif what == "wait":
            clock.now += rest[0]
        assert schedule.running() == len(running)
    for key in running:
        schedule.done(key)
    running.clear()
    clock.now += 1000.0
    for _ in "abc":
        take()
    assert not unserved


class Served:
    """What a queue served, and when; ``act`` says what serving a key does."""

    def __init__(self, act: Callable[[str], Awaitable[float | None]], *, workers: int = 2, limit: float = 60.0) -> None:
        self.log: list[tuple[float, str]] = []
        self._act = act
        self._clock = asyncio.get_running_loop().time
        schedule: Schedule[str] = Schedule(self._clock)
        self.queue: Queue[str] = Queue(self._serve, workers=workers, limit=limit, schedule=schedule)

    async def _serve(self, key: str) -> float | None:
        self.log.append((self._clock(), key))
        return await self._act(key)

    async def during(self, seconds: float, grace: float = 0.0) -> list[tuple[float, str]]:
        task = asyncio.create_task(self.queue.run())
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.queue.finish(grace)
        return self.log

    def times(self, key: str) -> list[float]:
        return [second for second, each in self.log if each == key]


async def broken(key: str) -> None:
    if key == "broken":
        raise RetryableError("no answer")


async def slow(key: str) -> None:
    if key == "slow":
        await asyncio.Event().wait()


def test_a_broken_key_is_tried_less_and_less_often_and_others_are_served_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> Served:
        served = Served(broken, workers=1)
        served.queue.add("broken")
        for second in (1, 3, 20):
            served.queue.add(f"after {second} s", second)
        await served.during(30)
        return served

    served = run(story())
    assert served.times("broken") == [0, 1, 3, 7, 15]
    assert [served.times(f"after {second} s") for second in (1, 3, 20)] == [[1], [3], [20]]
    assert "broken: no answer; trying again in 1 s" in caplog.text


def test_a_slow_key_holds_one_worker_until_its_limit_and_others_none(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> Served:
        served = Served(slow, workers=2, limit=10)
        served.queue.add("slow")
        for second in range(5):
            served.queue.add(f"quick {second}", second)
        await served.during(12)
        return served

    served = run(story())
    assert [served.times(f"quick {second}") for second in range(5)] == [[second] for second in range(5)]
    assert served.times("slow") == [0, 11]
    assert "slow: not done in 10 s; trying again in 1 s" in caplog.text


def test_a_key_that_is_being_served_is_not_served_by_a_second_worker() -> None:
    async def story() -> Served:
        async def take_five(key: str) -> None:
            await asyncio.sleep(5)

        served = Served(take_five, workers=4)
        served.queue.add("a")
        for second in (1, 2, 3):
            asyncio.get_running_loop().call_later(second, served.queue.add, "a")
        await served.during(20)
        return served

    assert run(story()).times("a") == [0, 5]


def test_no_more_keys_at_once_than_workers() -> None:
    async def story() -> Served:
        async def take_five(key: str) -> None:
            await asyncio.sleep(5)

        served = Served(take_five, workers=2)
        for key in "abcde":
            served.queue.add(key)
        await served.during(20)
        return served

    assert run(story()).log == [(0, "a"), (0, "b"), (5, "c"), (5, "d"), (10, "e")]


def test_a_key_is_looked_at_again_when_it_asks_for_it() -> None:
    async def story() -> Served:
        async def every_ten(key: str) -> float:
            return 10.0

        served = Served(every_ten)
        served.queue.add("a")
        await served.during(35)
        return served

    assert run(story()).times("a") == [0, 10, 20, 30]


def test_a_fault_in_the_operator_is_logged_with_its_traceback_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> Served:
        async def fault(key: str) -> None:
            raise KeyError("metadata")

        served = Served(fault)
        served.queue.add("a")
        await served.during(2)
        return served

    assert run(story()).times("a") == [0, 1]
    record = caplog.records[0]
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)


@pytest.mark.parametrize(("grace", "ended"), [(10.0, ["done"]), (1.0, ["cancelled"])])
def test_at_the_end_what_is_being_served_has_a_while_to_finish(grace: float, ended: list[str]) -> None:
    async def story() -> list[str]:
        ends: list[str] = []

        async def take_five(key: str) -> None:
            try:
                await asyncio.sleep(5)
                ends.append("done")
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        served = Served(take_five)
        served.queue.add("a")
        await served.during(1, grace)
        return ends

    assert run(story()) == ended
