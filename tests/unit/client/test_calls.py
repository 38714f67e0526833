"""Whatever a program gives to a client, a call that fails raises a `GatewayError` that says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from multitask_client import AsyncTaskClient, GatewayError, InvalidRequest, Sampling, TaskClient, Unavailable
from multitask_client.messages import timeout

NOBODY = "127.0.0.1:1"
HALF = "\ud83d"

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("half a character in a field", {"text": f"ab{HALF}"}, "fields.text"),
    ("half a character in a name", {"fields": {HALF: "x"}}, f"fields.{HALF}"),
    ("half a character in the task", {"task": HALF, "text": "x"}, "task"),
    ("a number as a field", {"text": 3}, "fields.text"),
    ("None as a field", {"text": None}, "fields.text"),
    ("a task that is no text", {"task": 7, "text": "x"}, "task"),
    ("a field given twice", {"fields": {"text": "x"}, "text": "y"}, "fields.text"),
    ("a negative seed", {"text": "x", "sampling": Sampling(seed=-1)}, "sampling.seed"),
    ("a seed beyond 64 bits", {"text": "x", "sampling": Sampling(seed=1 << 64)}, "sampling.seed"),
    ("half a token", {"text": "x", "sampling": Sampling(max_new_tokens=1.5)}, "sampling.max_new_tokens"),  # type: ignore[arg-type]
    ("a temperature in words", {"text": "x", "sampling": Sampling(temperature="hot")}, "sampling.temperature"),  # type: ignore[arg-type]
    ("a stop that cannot be sent", {"text": "x", "sampling": Sampling(stop=(HALF,))}, "sampling.stop"),
    ("a stop that is no text", {"text": "x", "sampling": Sampling(stop=(3,))}, "sampling.stop"),  # type: ignore[arg-type]
    ("a revision with a line break", {"text": "x", "revision": "r1\n"}, "revision"),
    ("a revision that is not ASCII", {"text": "x", "revision": "ré"}, "revision"),
    ("a time-out that is not a number", {"text": "x", "timeout_s": math.nan}, "timeout_s"),
    ("a time-out in words", {"text": "x", "timeout_s": "soon"}, "timeout_s"),
]


def given(arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    named = {key: value for key, value in arguments.items() if key not in ("task", "fields")}
    return (arguments.get("task", "urgency"), arguments.get("fields")), named


@pytest.mark.parametrize(("sentence", "arguments", "place"), WRONG, ids=[row[0] for row in WRONG])
async def test_what_cannot_be_sent_is_an_invalid_request_that_names_the_place(
    sentence: str, arguments: dict[str, Any], place: str
) -> None:
    positional, named = given(arguments)
    with TaskClient(NOBODY) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.predict(*positional, **named),
            lambda: list(client.predict_stream(*positional, **named)),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest) as error:
                call()
            assert list(error.value.violations) == [place]
    async with AsyncTaskClient(NOBODY) as asynchronous:
        with pytest.raises(InvalidRequest):
            await asynchronous.predict(*positional, **named)
        with pytest.raises(InvalidRequest):
            _ = [part async for part in asynchronous.predict_stream(*positional, **named)]


@pytest.mark.parametrize(("given", "expected"), [(30.0, 30.0), (0, 0), (math.inf, None), (1e12, None), (-1.0, -1.0)])
def test_an_endless_time_out_is_none(given: float, expected: float | None) -> None:
    assert timeout(given) == expected


@pytest.mark.parametrize("timeout_s", [math.inf, 1e300])
def test_an_endless_time_out_has_not_passed(timeout_s: float) -> None:
    with TaskClient(NOBODY, timeout_s=timeout_s) as client, pytest.raises(Unavailable, match="Check the address"):
        client.predict("urgency", text="x")


async def test_a_closed_client_says_so() -> None:
    client, asynchronous = TaskClient(NOBODY), AsyncTaskClient(NOBODY)
    client.close()
    await asynchronous.close()
    for call in (
        client.tasks,
        lambda: client.task("a"),
        lambda: client.predict("a"),
        lambda: list(client.predict_stream("a")),
    ):
        with pytest.raises(Unavailable, match="the client is closed; make a new one"):
            call()
    with pytest.raises(GatewayError, match="the client is closed; make a new one"):
        await asynchronous.tasks()
