"""Requests that are too large are reported as invalid, not as a temporary overload."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from multitask_client import AsyncTaskClient, GatewayError, InvalidRequest, Overloaded, TaskNotFound
from multitask_client.errors import from_rpc_error
from multitask_serving.gateway.server import running_gateway
from multitask_serving.gateway.validation import MAX_REQUEST_BYTES
from support.unreachable_gateway import write_routes


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncTaskClient]:
    """A client of a gateway whose only backend is unreachable. Only requests that pass every check would notice."""
    path = write_routes(tmp_path / "routes.yaml")
    async with (
        running_gateway(path, "127.0.0.1:0") as gateway,
        AsyncTaskClient(f"127.0.0.1:{gateway.port}") as connected,
    ):
        yield connected


BEYOND = MAX_REQUEST_BYTES + 1
CASES: list[tuple[str, str, dict[str, str], type[GatewayError], str]] = [
    ("a text just too long", "urgency", {"text": "x" * BEYOND}, InvalidRequest, "4194304 allowed; shorten its texts"),
    ("more than gRPC takes", "urgency", {"text": "x" * 5 * BEYOND}, InvalidRequest, "too large; shorten its texts"),
    ("a long field name", "urgency", {"客" * 50_000: "x"}, InvalidRequest, "fields.text: is missing; task 'urgency'"),
    (
        "very many fields",
        "urgency",
        {f"textt{n}": "x" for n in range(200_000)},
        InvalidRequest,
        "text: is missing; task",
    ),
    ("a long task name", "客" * 50_000, {}, TaskNotFound, "no task '客"),
    ("a very long task name", "x" * BEYOND, {}, InvalidRequest, "4194304 allowed; shorten its texts"),
]


@pytest.mark.parametrize(("task", "fields", "kind", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_a_request_too_large_is_the_callers_mistake(
    client: AsyncTaskClient, task: str, fields: dict[str, str], kind: type[GatewayError], message: str
) -> None:
    with pytest.raises(GatewayError) as caught:
        await client.predict(task, fields)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    with pytest.raises(kind):
        _ = [part async for part in client.predict_stream(task, fields)]


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("SERVER: Received message larger than max (5 vs. 4)", InvalidRequest),
        ("Received message larger than max (5 vs. 4)", InvalidRequest),
        ("Sent message larger than max (5 vs. 4)", InvalidRequest),
        ("CLIENT: Received message larger than max (5 vs. 4)", Overloaded),  # an answer; the request was in order
        ("upstream is at its limit", Overloaded),
    ],
)
def test_grpcs_own_rejections(details: str, kind: type[GatewayError]) -> None:
    code, empty = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata()
    assert type(from_rpc_error(grpc.aio.AioRpcError(code, empty, empty, details), "host:1")) is kind
