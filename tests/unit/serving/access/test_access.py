"""Every method of a gateway that asks who calls, for every kind of caller: the status that it ends with."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from multitask_client import AsyncTaskClient, GatewayError, PermissionDenied, TaskNotFound, Tls, Unauthenticated
from multitask_client.proto import gateway_pb2_grpc
from multitask_serving.gateway.access.access import Access
from multitask_serving.gateway.access.callers import CallersFile
from multitask_serving.gateway.access.interceptor import AccessInterceptor
from multitask_serving.gateway.access.reviews import TokenReviews
from multitask_serving.gateway.labels.request_ids import RequestIds
from multitask_serving.gateway.server import Gateway, running_gateway
from unit.serving.access.conftest import ADMIN_KEY, CALLERS, GUEST_KEY, SHOP_KEY
from unit.serving.access.test_reviews import answer, token

OK, UNAVAILABLE = "OK", "UNAVAILABLE"
"""A prediction that is let through ends with UNAVAILABLE: there is no server behind the gateway."""
UNKNOWN, DENIED, MISSING = "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"

IDENTITIES: dict[str, str | None] = {
    "nobody": None,
    "a wrong key": "x" * 40,
    "shop": SHOP_KEY,
    "admin": ADMIN_KEY,
    "guest": GUEST_KEY,
    "a pod of team-b": token(),
    "a pod's own token": token({"aud": ["https://kubernetes.default.svc"]}),
}
COLUMNS = tuple(IDENTITIES)
LABEL_KEY = b"l" * 32

# what is called, and the status for each identity, in the order of COLUMNS
METHODS: list[tuple[str, str, Sequence[str]]] = [
    ("Predict", "team-a/desk/urgency", (UNKNOWN, UNKNOWN, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, DENIED, UNKNOWN)),
    ("Predict", "team-a/desk/stance", (UNKNOWN, UNKNOWN, UNAVAILABLE, UNAVAILABLE, DENIED, DENIED, UNKNOWN)),
    ("Predict", "team-b/secret-desk/urgency", (UNKNOWN, UNKNOWN, DENIED, UNAVAILABLE, DENIED, UNAVAILABLE, UNKNOWN)),
    ("Predict", "urgency", (UNKNOWN, UNKNOWN, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, DENIED, UNKNOWN)),
    ("Predict", "urgencies", (UNKNOWN, UNKNOWN, DENIED, UNAVAILABLE, DENIED, UNAVAILABLE, UNKNOWN)),
    ("Predict", "team-a/desk/nothing", (UNKNOWN, UNKNOWN, MISSING, MISSING, DENIED, DENIED, UNKNOWN)),
    ("Predict", "team-b/secret-desk/nothing", (UNKNOWN, UNKNOWN, DENIED, MISSING, DENIED, MISSING, UNKNOWN)),
    ("Predict", "nothing", (UNKNOWN, UNKNOWN, DENIED, MISSING, DENIED, DENIED, UNKNOWN)),
    ("PredictStream", "team-a/desk/stance", (UNKNOWN, UNKNOWN, UNAVAILABLE, UNAVAILABLE, DENIED, DENIED, UNKNOWN)),
    ("PredictStream", "urgencies", (UNKNOWN, UNKNOWN, DENIED, UNAVAILABLE, DENIED, UNAVAILABLE, UNKNOWN)),
    ("GetTask", "team-a/desk/stance", (UNKNOWN, UNKNOWN, OK, OK, DENIED, DENIED, UNKNOWN)),
    ("GetTask", "urgencies", (UNKNOWN, UNKNOWN, DENIED, OK, DENIED, OK, UNKNOWN)),
    ("ReportLabel", "team-a/desk/stance", (UNKNOWN, UNKNOWN, OK, OK, DENIED, DENIED, UNKNOWN)),
    ("ReportLabel", "team-b/secret-desk/urgencies", (UNKNOWN, UNKNOWN, DENIED, OK, DENIED, OK, UNKNOWN)),
    ("ReportLabel", "team-a/desk/nothing", (UNKNOWN, UNKNOWN, MISSING, MISSING, DENIED, DENIED, UNKNOWN)),
    ("ReportLabel", "", (UNKNOWN, UNKNOWN, *("INVALID_ARGUMENT",) * 4, UNKNOWN)),
    ("ListTasks", "", (UNKNOWN, UNKNOWN, OK, OK, OK, OK, UNKNOWN)),
    ("Reflection", "", (UNKNOWN, UNKNOWN, OK, OK, OK, OK, UNKNOWN)),
    ("Health.Check", "", (OK, OK, OK, OK, OK, OK, OK)),
    ("Health.Watch", "", (OK, OK, OK, OK, OK, OK, OK)),
    ("an unknown method", "", ("UNIMPLEMENTED",) * 7),
]


async def review(body: dict[str, Any]) -> dict[str, Any]:
    return answer("system:serviceaccount:team-b:secret-desk-stages")


@asynccontextmanager
async def gateway(routes: Path, callers: Path) -> AsyncIterator[Gateway]:
    access = Access(CallersFile(callers), TokenReviews(review))
    async with running_gateway(routes, "127.0.0.1:0", access=access, reload_s=0.05, label_key=LABEL_KEY) as running:
        yield running


async def _predict(client: AsyncTaskClient, task: str) -> None:
    await client.predict(task, text="x")


async def _stream(client: AsyncTaskClient, task: str) -> None:
    _ = [part async for part in client.predict_stream(task, text="x")]


async def _label(client: AsyncTaskClient, task: str) -> None:
    """``task`` is the full name in the id; none: there is no id."""
    request_id = RequestIds(LABEL_KEY).issue(task, "r", "", "a", is_sample=True) if task else ""
    await client.report_label(request_id, "a")


async def _reflection(channel: grpc.aio.Channel, metadata: Any) -> None:
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(metadata=metadata)
    with suppress(grpc.aio.AioRpcError):  # the status is that of the read
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    response = await call.read()
    if response is grpc.aio.EOF:
        raise grpc.aio.AioRpcError(await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata())
    assert response.list_services_response.service
    call.cancel()


async def _watch(channel: grpc.aio.Channel, metadata: Any) -> None:
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), metadata=metadata)
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
    call.cancel()


OURS: dict[str, Callable[[AsyncTaskClient, str], Awaitable[Any]]] = {
    "Predict": _predict,
    "PredictStream": _stream,
    "GetTask": lambda client, task: client.task(task),
    "ReportLabel": _label,
    "ListTasks": lambda client, task: client.tasks(),
}
OTHERS: dict[str, Callable[[grpc.aio.Channel, Any], Awaitable[Any]]] = {
    "Reflection": _reflection,
    "Health.Check": lambda channel, metadata: health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), metadata=metadata
    ),
    "Health.Watch": _watch,
    "an unknown method": lambda channel, metadata: channel.unary_unary("/multitask.v1.TaskGateway/Reset")(
        b"", metadata=metadata
    ),
}


async def outcome(address: str, method: str, task: str, key: str | None, tls: Tls | None = None) -> str:
    try:
        if method in OURS:
            async with AsyncTaskClient(address, api_key=key, tls=tls or False, timeout_s=20) as client:
                await OURS[method](client, task)
        else:
            channel = grpc.aio.secure_channel(address, tls.credentials()) if tls else grpc.aio.insecure_channel(address)
            async with channel:
                await OTHERS[method](channel, [("authorization", f"Bearer {key}")] if key else [])
    except GatewayError as error:
        return error.status.name
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return OK


@pytest.mark.parametrize(("method", "task", "expected"), METHODS, ids=[f"{row[0]} {row[1]}".strip() for row in METHODS])
async def test_the_status_for_each_caller(
    routes: Path, callers: Path, method: str, task: str, expected: Sequence[str]
) -> None:
    async with gateway(routes, callers) as running:
        address = f"127.0.0.1:{running.port}"
        statuses = {name: await outcome(address, method, task, key) for name, key in IDENTITIES.items()}
    assert statuses == dict(zip(COLUMNS, expected, strict=True))


def test_the_table_has_every_method_of_the_gateway() -> None:
    methods = {name for name in dir(gateway_pb2_grpc.TaskGatewayServicer) if name[0].isupper()}
    assert methods <= {method for method, *_ in METHODS}


LISTED = {
    SHOP_KEY: ["team-a/desk/stance", "team-a/desk/urgency"],
    ADMIN_KEY: [
        "team-a/desk/stance",
        "team-b/secret-desk/urgencies",
        "team-a/desk/urgency",
        "team-b/secret-desk/urgency",
    ],
    GUEST_KEY: ["team-a/desk/urgency"],
    token(): ["team-b/secret-desk/urgencies", "team-b/secret-desk/urgency"],
}


@pytest.mark.parametrize(("key", "names"), LISTED.items(), ids=["shop", "admin", "guest", "a pod of team-b"])
async def test_a_list_has_what_the_caller_may_call(routes: Path, callers: Path, key: str, names: list[str]) -> None:
    async with gateway(routes, callers) as running, AsyncTaskClient(f"127.0.0.1:{running.port}", api_key=key) as client:
        listed = await client.tasks()
    assert sorted(task.full_name for task in listed) == sorted(names)


@pytest.mark.parametrize("task", ["urgencies", "urgencie", "team-b/secret-desk/urgency", "team-b/secret-desk/no"])
async def test_no_answer_says_whether_a_task_of_others_exists(routes: Path, callers: Path, task: str) -> None:
    async with (
        gateway(routes, callers) as running,
        AsyncTaskClient(f"127.0.0.1:{running.port}", api_key=GUEST_KEY) as client,
    ):
        with pytest.raises(PermissionDenied) as caught:
            await client.predict(task, text="x")
    assert str(caught.value).startswith(f"caller 'guest' may not call task {task!r}, or there is no such task; ")
    assert "secret" not in "".join(caught.value.nearest)
    assert "urgencies" not in caught.value.nearest
    assert caught.value.reason == "TASK_NOT_ALLOWED"


async def test_a_name_with_a_mistake_is_answered_with_what_the_caller_may_call(routes: Path, callers: Path) -> None:
    async with gateway(routes, callers) as running:
        address = f"127.0.0.1:{running.port}"
        async with AsyncTaskClient(address, api_key=SHOP_KEY) as client:
            with pytest.raises(PermissionDenied, match="did you mean urgency") as short:
                await client.task("urgncy")
            with pytest.raises(TaskNotFound, match="did you mean team-a/desk/urgency") as full:
                await client.task("team-a/desk/urgncy")
    assert short.value.nearest == ("urgency",)
    assert full.value.nearest == ("team-a/desk/urgency",)


HEADERS = [
    ("a key without a scheme", [("authorization", SHOP_KEY)], UNKNOWN, "must be once 'Bearer ' and the API key"),
    ("another scheme", [("authorization", f"Basic {SHOP_KEY}")], UNKNOWN, "must be once 'Bearer '"),
    ("no key", [("authorization", "Bearer ")], UNKNOWN, "must be once 'Bearer '"),
    ("two headers", [("authorization", f"Bearer {SHOP_KEY}")] * 2, UNKNOWN, "must be once 'Bearer '"),
    ("nothing", [], UNKNOWN, "send the metadata 'authorization: Bearer KEY'"),
    ("the scheme in lower case", [("authorization", f"bearer {SHOP_KEY}")], OK, ""),
    ("spaces around the key", [("authorization", f"Bearer   {SHOP_KEY} ")], OK, ""),
]


@pytest.mark.parametrize(
    ("headers", "status", "message"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
async def test_the_form_of_the_metadata(
    routes: Path, callers: Path, headers: list[tuple[str, str]], status: str, message: str
) -> None:
    async with gateway(routes, callers) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        call = channel.unary_unary("/multitask.v1.TaskGateway/ListTasks")(b"", metadata=headers)
        assert (await call.code()).name == status
        assert message in await call.details()


async def test_a_key_that_is_taken_out_of_the_file_counts_no_longer(routes: Path, callers: Path) -> None:
    access = Access(CallersFile(callers))
    async with (
        running_gateway(routes, "127.0.0.1:0", access=access, reload_s=3600) as running,
        AsyncTaskClient(f"127.0.0.1:{running.port}", api_key=SHOP_KEY) as client,
    ):
        assert await client.tasks()
        callers.write_text(yaml.safe_dump({"callers": CALLERS[1:]}))  # noqa: ASYNC240 - a few bytes
        access.refresh()
        with pytest.raises(Unauthenticated, match="the API key is not known here") as caught:
            await client.tasks()
    assert caught.value.reason == "UNAUTHENTICATED"


async def test_a_client_asks_for_its_key_at_each_call(routes: Path, callers: Path) -> None:
    """A token in a file changes before it ends."""
    keys = iter([SHOP_KEY, GUEST_KEY, "x" * 40])
    async with (
        gateway(routes, callers) as running,
        AsyncTaskClient(f"127.0.0.1:{running.port}", api_key=lambda: next(keys)) as client,
    ):
        assert [len(await client.tasks()), len(await client.tasks())] == [2, 1]
        with pytest.raises(Unauthenticated):
            await client.tasks()


async def test_an_api_server_that_is_away_is_not_the_callers_mistake(routes: Path, callers: Path) -> None:
    async def away(body: dict[str, Any]) -> dict[str, Any]:
        raise OSError(f"away {body}")

    access = Access(CallersFile(callers), TokenReviews(away))
    async with running_gateway(routes, "127.0.0.1:0", access=access) as running:
        assert await outcome(f"127.0.0.1:{running.port}", "ListTasks", "", token()) == UNAVAILABLE
        assert await outcome(f"127.0.0.1:{running.port}", "ListTasks", "", SHOP_KEY) == OK


async def test_no_key_or_token_gets_into_a_log(routes: Path, callers: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def away(body: dict[str, Any]) -> dict[str, Any]:
        raise OSError(f"away {body}")

    keys = [*filter(None, IDENTITIES.values())]
    access = Access(CallersFile(callers), TokenReviews(away))
    async with running_gateway(routes, "127.0.0.1:0", access=access) as running:
        for key in keys:
            for method, task, _ in METHODS:
                await outcome(f"127.0.0.1:{running.port}", method, task, key)
    assert "could not be checked: OSError" in caplog.text
    assert not [key for key in keys if key in caplog.text]


async def test_streams_of_requests_have_a_caller_too(callers: Path) -> None:
    """All four kinds of method: a service that is added later is covered without a word about it."""
    kinds = {"unary_unary", "unary_stream", "stream_unary", "stream_stream"}

    async def one(request: Any, context: Any) -> bytes:
        return b"x"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"x"

    handlers = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(many if kind.endswith("stream") else one) for kind in kinds
    }
    server = grpc.aio.server(interceptors=[AccessInterceptor(Access(CallersFile(callers)))])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("later.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for kind in kinds:
                for key, expected in ((None, UNKNOWN), (SHOP_KEY, OK)):
                    metadata = [("authorization", f"Bearer {key}")] if key else []
                    request = iter([b""]) if kind.startswith("stream") else b""
                    call = getattr(channel, kind)(f"/later.Service/{kind}")(request, metadata=metadata)
                    if kind.endswith("stream"):
                        with suppress(grpc.aio.AioRpcError):
                            assert [answer async for answer in call] == [b"x"]
                    assert (await call.code()).name == expected, (kind, key)
    finally:
        await server.stop(None)


async def test_a_gateway_without_a_file_of_callers_is_open(routes: Path) -> None:
    async with running_gateway(routes, "127.0.0.1:0") as running:
        assert await outcome(f"127.0.0.1:{running.port}", "ListTasks", "", None) == OK
        assert await outcome(f"127.0.0.1:{running.port}", "ListTasks", "", "x" * 40) == OK
