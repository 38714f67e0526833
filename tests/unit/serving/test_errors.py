"""How every error reaches a caller: gRPC status, details, and the client's exception."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import multitask_client as client
from multitask_api.errors import Problem
from multitask_client.errors import from_rpc_error
from multitask_client.proto import gateway_pb2, gateway_pb2_grpc
from multitask_serving.gateway import errors
from multitask_serving.gateway.backends import to_status_error
from multitask_serving.gateway.interceptor import ErrorInterceptor
from multitask_serving.gateway.server import SERVICE
from multitask_serving.triton import client as triton
from multitask_serving.triton import wire

CASES: list[tuple[Exception, grpc.StatusCode, type[client.GatewayError], str]] = [
    (errors.TaskNotFound("urgncy", ["urgency"]), grpc.StatusCode.NOT_FOUND, client.TaskNotFound, "TASK_NOT_FOUND"),
    (errors.RevisionNotFound("t", "r3", ["r1"]), grpc.StatusCode.NOT_FOUND, client.TaskNotFound, "REVISION_NOT_FOUND"),
    (
        errors.InvalidRequest([Problem("fields.text", "is missing"), Problem("fields.txt", "is not a field")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        client.InvalidRequest,
        "INVALID_REQUEST",
    ),
    (errors.LabelsOff(), grpc.StatusCode.FAILED_PRECONDITION, client.FailedPrecondition, "LABELS_OFF"),
    (errors.Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, client.Overloaded, "OVERLOADED"),
    (errors.DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED, client.DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (errors.NoBackend("none"), grpc.StatusCode.UNAVAILABLE, client.Unavailable, "NO_BACKEND"),
    (errors.InternalError("broken"), grpc.StatusCode.INTERNAL, client.GatewayError, "INTERNAL"),
    (ZeroDivisionError("a secret"), grpc.StatusCode.INTERNAL, client.GatewayError, "INTERNAL"),
]


class _Failing(gateway_pb2_grpc.TaskGatewayServicer):
    def __init__(self) -> None:
        self.error: Exception = RuntimeError("unset")

    async def Predict(self, request: object, context: object) -> object:
        raise self.error

    async def PredictStream(self, request: object, context: object) -> AsyncIterator[object]:
        yield gateway_pb2.PredictStreamResponse(delta="a")
        raise self.error


@pytest.mark.parametrize("case", CASES, ids=[type(case[0]).__name__ for case in CASES])
async def test_an_error_arrives_with_status_reason_and_details(case: tuple) -> None:
    error, code, kind, reason = case
    service = _Failing()
    service.error = error
    server = grpc.aio.server(interceptors=[ErrorInterceptor(SERVICE)])
    gateway_pb2_grpc.add_TaskGatewayServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with client.AsyncTaskClient(f"127.0.0.1:{port}") as caller:
            with pytest.raises(client.GatewayError) as one:
                await caller.predict("t")
            with pytest.raises(client.GatewayError) as streamed:
                assert [part async for part in caller.predict_stream("t")] == ["a"]
    finally:
        await server.stop(None)
    for caught in (one.value, streamed.value):
        assert type(caught) is kind
        assert (caught.status, caught.reason) == (code, reason)
        assert "secret" not in str(caught)
        assert caught.retry_after_s == (1.0 if kind in (client.Overloaded, client.Unavailable) else None)
        expected = error.violations() if isinstance(error, errors.StatusError) else ()
        assert caught.violations == {problem.path: problem.message for problem in expected}
    if isinstance(one.value, client.TaskNotFound) and reason == "TASK_NOT_FOUND":
        assert one.value.nearest == ("urgency",)


@pytest.mark.parametrize(("error", "seconds"), [(errors.Overloaded("x"), 1), (errors.NoBackend("x"), 1)])
def test_the_status_says_when_to_try_again(error: errors.StatusError, seconds: int) -> None:
    retry = error_details_pb2.RetryInfo()
    metadata = dict(errors.to_status(error).trailing_metadata)
    status = rpc_status.status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.seconds == seconds


def test_a_gateway_that_is_not_there_is_unavailable_and_named() -> None:
    with client.TaskClient("127.0.0.1:1") as caller, pytest.raises(client.Unavailable, match=r"^127\.0\.0\.1:1: "):
        caller.tasks()


def status_of(code: grpc.StatusCode, details: str) -> triton.BackendError:
    empty = grpc.aio.Metadata()
    return triton._error_from_status("host:1", grpc.aio.AioRpcError(code, empty, empty, details))


def ours(code: str, field: str = "") -> str:
    return wire.WireError(code, "words", field).encode()


TRITON: list[tuple[Callable[[], triton.BackendError], type[errors.StatusError]]] = [
    (lambda: status_of(grpc.StatusCode.UNAVAILABLE, "[request id: 7] Exceeds maximum queue size"), errors.Overloaded),
    (lambda: status_of(grpc.StatusCode.UNAVAILABLE, ours(wire.OVERLOADED)), errors.Overloaded),
    (lambda: status_of(grpc.StatusCode.UNAVAILABLE, "Request timeout expired"), errors.DeadlineExceeded),
    (lambda: status_of(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), errors.DeadlineExceeded),
    (lambda: status_of(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses"), errors.NoBackend),
    (
        lambda: status_of(
            grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'multitask' has no available versions"
        ),
        errors.NoBackend,
    ),
    (lambda: status_of(grpc.StatusCode.INTERNAL, "Stub process 'multitask_0_0' is not healthy."), errors.NoBackend),
    (lambda: status_of(grpc.StatusCode.NOT_FOUND, ours(wire.UNKNOWN_TASK)), errors.NoBackend),
    (lambda: status_of(grpc.StatusCode.UNAVAILABLE, ours(wire.SHUTTING_DOWN)), errors.NoBackend),
    (lambda: triton._error_from_text(ours(wire.SHUTTING_DOWN)), errors.NoBackend),
    (lambda: status_of(grpc.StatusCode.INVALID_ARGUMENT, ours(wire.MISSING_FIELD, "fields.x")), errors.InvalidRequest),
    (lambda: status_of(grpc.StatusCode.INVALID_ARGUMENT, ours(wire.INVALID_REQUEST)), errors.InvalidRequest),
    (lambda: status_of(grpc.StatusCode.INTERNAL, ours(wire.INTERNAL)), errors.InternalError),
    (lambda: status_of(grpc.StatusCode.INTERNAL, "something new"), errors.InternalError),
    (lambda: triton._error_from_text("Exceeds maximum queue size"), errors.Overloaded),
    (lambda: triton.BackendUnavailable("ended early"), errors.NoBackend),
]


@pytest.mark.parametrize(("make", "kind"), TRITON)
def test_tritons_errors_become_status_errors(
    make: Callable[[], triton.BackendError], kind: type[errors.StatusError]
) -> None:
    assert type(to_status_error(make())) is kind


def test_an_error_without_details_still_has_its_kind() -> None:
    error = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")
    converted = from_rpc_error(error, "host:1")
    assert (type(converted), converted.status, str(converted)) == (
        client.GatewayError,
        grpc.StatusCode.CANCELLED,
        "host:1: gone",
    )
