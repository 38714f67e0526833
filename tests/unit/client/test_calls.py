"""Whatever a program gives to a client, a call that fails raises a `GatewayError` that says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]

from multitask_client import AsyncTaskClient, GatewayError, InvalidRequest, Sampling, TaskClient, Unavailable
from multitask_client.errors import from_rpc_error
from multitask_client.messages import predict_request, timeout

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
    ("half a character in one stop", {"text": "x", "sampling": Sampling(stop=HALF)}, "sampling.stop"),
    ("stops that are used up", {"text": "x", "sampling": Sampling(stop=iter(["a"]))}, "sampling.stop"),  # type: ignore[arg-type]
    ("a mapping as stops", {"text": "x", "sampling": Sampling(stop={"a": 1})}, "sampling.stop"),
    ("bytes as stops", {"text": "x", "sampling": Sampling(stop=b"END")}, "sampling.stop"),  # type: ignore[arg-type]
    ("a number as stops", {"text": "x", "sampling": Sampling(stop=3)}, "sampling.stop"),  # type: ignore[arg-type]
    ("stops as temperature", {"text": "x", "sampling": Sampling(temperature=("END",))}, "sampling.temperature"),  # type: ignore[arg-type]
    ("a list as seed", {"text": "x", "sampling": Sampling(seed=["END"])}, "sampling.seed"),  # type: ignore[arg-type]
    ("sampling as a mapping", {"text": "x", "sampling": {"seed": 1}}, "sampling"),
    ("sampling in words", {"text": "x", "sampling": "greedy"}, "sampling"),
    ("fields that are the text itself", {"fields": "my text"}, "fields"),
    ("fields that are a list", {"fields": ["my text"]}, "fields"),
    ("a field that has a number as name", {"fields": {1: "x"}}, "fields.1"),
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (30.0, 30.0),
        (0, 0),
        (math.inf, None),
        (1e12, None),
        (10**400, None),
        (-1.0, -1.0),
        (-math.inf, -1.0),
        (-(10**400), -1.0),
    ],
)
def test_an_endless_time_out_is_none(given: float, expected: float | None) -> None:
    assert timeout(given) == expected


@pytest.mark.parametrize(
    ("stop", "sent"),
    [
        ("END", ["END"]),
        ("", [""]),
        (("a", "b"), ["a", "b"]),
        (["a"], ["a"]),
        ({"END"}, ["END"]),
        (frozenset(["END"]), ["END"]),
        ((), []),
        (None, []),
    ],
)
def test_one_stop_or_several(stop: Any, sent: list[str]) -> None:
    assert list(predict_request("a", None, {"text": "x"}, Sampling(stop=stop)).sampling.stop) == sent


class Ended(grpc.RpcError):
    """A call that ended with these details in its trailers."""

    def __init__(self, details: object) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        return "no luck"

    def trailing_metadata(self) -> tuple[tuple[str, object], ...]:
        return (("grpc-status-details-bin", self._details),)


def in_any(value: bytes) -> bytes:
    status = status_pb2.Status(code=13)
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=value)
    return bytes(status.SerializeToString())


@pytest.mark.parametrize("details", [b"\xff\xff\xff", b"garbage", in_any(b"\xff\xff"), "text", None])
def test_details_that_are_none_leave_the_status(details: object) -> None:
    error = from_rpc_error(Ended(details), NOBODY)
    assert (type(error), error.status, error.reason) == (GatewayError, grpc.StatusCode.INTERNAL, "")
    assert str(error) == f"{NOBODY}: no luck"


@pytest.mark.parametrize("timeout_s", [math.inf, 1e300, 10**400])
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
