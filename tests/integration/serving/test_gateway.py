"""The gateway over loopback, in front of a real Triton server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from integration.serving.conftest import MESSAGES, backend, table, write_table
from multitask_client import (
    AsyncTaskClient,
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    Prediction,
    Sampling,
    TaskClient,
    TaskNotFound,
    Unavailable,
)
from multitask_client.proto import gateway_pb2
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_serving.gateway import server
from multitask_serving.gateway.server import SERVICE, Gateway, running_gateway
from multitask_serving.triton.server import TritonServer, free_port


@asynccontextmanager
async def gateway_over(
    routes: Path, *, draw: float = 0.0, reload_s: float = 3600.0
) -> AsyncIterator[tuple[Gateway, AsyncTaskClient]]:
    async with (
        running_gateway(routes, "127.0.0.1:0", draw=lambda: draw, reload_s=reload_s) as gateway,
        AsyncTaskClient(f"127.0.0.1:{gateway.port}") as client,
    ):
        yield gateway, client


async def test_mixed_tasks_at_once_get_the_engines_answers(routes: Path, engine: Engine) -> None:
    labels = [Request("urgency", {"text": text}) for text in MESSAGES]
    labels += [Request("pair", {"first": text, "second": MESSAGES[0]}) for text in MESSAGES]
    texts = [Request("reply", {"text": text}) for text in MESSAGES]
    async with gateway_over(routes) as (_, client):
        answers = await asyncio.gather(*(client.predict(one.task, one.fields) for one in [*labels, *texts]))
    expected = engine.classify(labels)
    for answer, label in zip(answers, expected, strict=False):
        assert answer.label == label.label
        assert answer.text is None
        assert answer.scores == pytest.approx(label.scores, abs=1e-5)
        assert (answer.served_by, answer.revision) == ("mixture", "test")
    for answer, text in zip(answers[len(labels) :], engine.generate_all(texts), strict=True):
        assert (answer.text, answer.finish_reason) == (text.text, text.finish_reason)
        assert answer.label is None
        assert answer.scores == {}


async def test_a_stream_gives_the_text_in_pieces_and_then_whole(routes: Path, engine: Engine) -> None:
    async with gateway_over(routes) as (_, client):
        *pieces, last = [part async for part in client.predict_stream("reply", text=MESSAGES[0])]
        labels = [part async for part in client.predict_stream("urgency", text=MESSAGES[0])]
    [expected] = engine.generate_all([Request("reply", {"text": MESSAGES[0]})])
    assert len(pieces) > 1
    assert "".join(pieces) == expected.text
    assert isinstance(last, Prediction)
    assert last.text == expected.text
    assert labels[0] == labels[1].label


async def test_sampling_reaches_the_engine(routes: Path) -> None:
    async with gateway_over(routes) as (_, client):
        drawn = Sampling(temperature=2.0, seed=3, max_new_tokens=8)
        first, again = [await client.predict("reply", sampling=drawn, text="x") for _ in range(2)]
        other = await client.predict("reply", sampling=Sampling(temperature=2.0, seed=4, max_new_tokens=8), text="x")
        short = await client.predict("reply", sampling=Sampling(max_new_tokens=1), text="x")
    assert first.text == again.text != other.text
    assert short.finish_reason == "length"


REJECTIONS: Sequence[tuple[str, str, dict[str, str], Sampling | None, type[GatewayError], str, str, list[str]]] = [
    ("a name like a task's", "urgncy", {"text": "x"}, None, TaskNotFound, "TASK_NOT_FOUND",
     "no task 'urgncy' is served here; did you mean urgency?", []),
    ("a missing field", "urgency", {}, None, InvalidRequest, "INVALID_REQUEST",
     "fields.text: is missing; task 'urgency' takes text", ["fields.text"]),
    ("a wrong field", "pair", {"first": "x", "secnd": "y"}, None, InvalidRequest, "INVALID_REQUEST",
     ("fields.second: is missing; task 'pair' takes first, second; fields.secnd: is not a field of this task; "
      "task 'pair' takes first, second; did you mean 'second'?"), ["fields.second", "fields.secnd"]),
    ("sampling of a label", "urgency", {"text": "x"}, Sampling(seed=1), InvalidRequest, "INVALID_REQUEST",
     "sampling: task 'urgency' is a classification task; leave sampling out", ["sampling"]),
    ("sampling out of range", "reply", {"text": "x"}, Sampling(temperature=11), InvalidRequest, "INVALID_REQUEST",
     "sampling: temperature is 11.0; it must be from 0 (greedy) to 10", ["sampling"]),
]  # fmt: skip


@pytest.mark.parametrize("case", REJECTIONS, ids=[case[0] for case in REJECTIONS])
async def test_an_invalid_request_gets_an_explanation(routes: Path, case: tuple) -> None:
    _, task, fields, sampling, kind, reason, message, places = case
    async with gateway_over(routes) as (_, client):
        with pytest.raises(kind) as caught:
            await client.predict(task, fields, sampling=sampling)
        with pytest.raises(kind):
            _ = [part async for part in client.predict_stream(task, fields, sampling=sampling)]
    assert str(caught.value) == message
    assert caught.value.reason == reason
    assert list(caught.value.violations) == places


NO_REQUESTS = [
    ("text that is not UTF-8", b"\x0a\x02\xff\xfe"),
    ("a field cut short", b"\x0a\x7f"),
    ("a wrong wire type", b"\x0f\x01"),
    ("a group that never ends", b"\x0b"),
    ("a number that never ends", b"\xff" * 12),
]


@pytest.mark.parametrize(("sentence", "data"), NO_REQUESTS, ids=[row[0] for row in NO_REQUESTS])
async def test_bytes_that_are_no_request_are_the_callers_mistake(
    routes: Path, caplog: pytest.LogCaptureFixture, sentence: str, data: bytes
) -> None:
    methods = [(SERVICE, "Predict"), (SERVICE, "PredictStream"), ("grpc.health.v1.Health", "Check")]
    async with gateway_over(routes) as (gateway, client):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            for service, method in methods:
                call = channel.unary_stream(f"/{service}/{method}")(data)
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call.read()
                assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert error.value.details().startswith("the bytes are not this method's message; ")
        assert (await client.predict("urgency", text="x")).label
    assert not caplog.records


@pytest.mark.parametrize("well_formed", [0, 2], ids=["at once", "after two requests"])
@pytest.mark.parametrize(("sentence", "data"), NO_REQUESTS, ids=[row[0] for row in NO_REQUESTS])
async def test_bytes_among_many_requests_too(
    routes: Path, caplog: pytest.LogCaptureFixture, sentence: str, data: bytes, well_formed: int
) -> None:
    listing = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    async with (
        gateway_over(routes) as (gateway, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
    ):
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
        for _ in range(well_formed):
            await call.write(listing)
            answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
            assert SERVICE in [item.name for item in answer.list_services_response.service]
        await call.write(data)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details().startswith("the bytes are not this method's message; ")
    assert not caplog.records


async def test_a_client_may_ask_every_second_whether_the_connection_lives(routes: Path) -> None:
    pings = [("grpc.keepalive_time_ms", 1_000), ("grpc.keepalive_permit_without_calls", 1)]
    pings += [("grpc.http2.max_pings_without_data", 0)]
    async with (
        gateway_over(routes) as (gateway, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}", options=pings) as channel,
    ):
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(TimeoutError):  # nothing comes, no end of the connection either
            await asyncio.wait_for(call.read(), 6)


async def test_a_connection_that_says_nothing_is_ended(routes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = [(key, 1_000 if "handshake" in key else value) for key, value in server._CHANNEL_OPTIONS]
    monkeypatch.setattr(server, "_CHANNEL_OPTIONS", shorter)
    async with gateway_over(routes) as (gateway, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        await asyncio.wait_for(reader.read(), 30)  # until the server has closed it
        writer.close()


async def test_names_and_descriptions(routes: Path) -> None:
    async with gateway_over(routes) as (_, client):
        names = [task.name for task in await client.tasks()]
        pair = await client.task("desk/pair")
        assert (await client.predict("default/desk/urgency", text="x")).task == "default/desk/urgency"
        with pytest.raises(TaskNotFound) as caught:
            await client.task("desk/urgncy")
    assert names == ["essay", "pair", "reply", "urgency"]
    assert (pair.name, pair.full_name, pair.type) == ("pair", "default/desk/pair", "Classification")
    assert (pair.fields, pair.labels, pair.served_by) == (("first", "second"), ("yes", "no"), "mixture")
    assert pair.revisions == {"test": 100}
    assert caught.value.nearest == ("desk/urgency",)


async def test_a_deadline_ends_the_call_everywhere(routes: Path) -> None:
    async with gateway_over(routes) as (gateway, client):
        with pytest.raises(DeadlineExceeded):
            await client.predict("essay", timeout_s=0.3, text=MESSAGES[0])
        await client.predict("urgency", text="x")
        counts = gateway.stats.snapshot()
    assert counts["default/desk/essay", "test"].errors == {"DEADLINE_EXCEEDED": 1}
    assert counts["default/desk/urgency", "test"].errors == {}
    assert counts["default/desk/urgency", "test"].requests == 1


async def test_cancelling_a_stream_stops_the_model(routes: Path, triton: TritonServer) -> None:
    before = cancelled_essays(triton)
    async with gateway_over(routes) as (gateway, client):
        async with aclosing(client.predict_stream("essay", text=MESSAGES[0])) as parts:
            assert await anext(parts)
        async with asyncio.timeout(30):
            while cancelled_essays(triton) == before:
                await client.tasks()
        counts = gateway.stats.snapshot()["default/desk/essay", "test"]
    assert counts.errors == {"CANCELLED": 1}


def cancelled_essays(triton: TritonServer) -> int:
    """How many cancellations the backend has logged."""
    return triton.log.read_text(errors="replace").count("task 'essay': cancelled by the caller")


async def test_a_dead_backend_is_skipped(tmp_path: Path, triton: TritonServer) -> None:
    dead, alive = backend(free_port(), weight=50, revision="old"), backend(triton.port, weight=50, revision="test")
    routes = write_table(tmp_path / "routes.yaml", table(dead, alive))
    async with gateway_over(routes, draw=0.0) as (gateway, client):
        assert (await client.predict("urgency", text="x")).revision == "test"
        assert [part async for part in client.predict_stream("reply", text="x")][-1].revision == "test"
        with pytest.raises(Unavailable) as caught:
            await client.predict("urgency", text="x", revision="old")
        counts = gateway.stats.snapshot()
    assert caught.value.reason == "NO_BACKEND"
    assert "the task's server is not available" in str(caught.value)
    assert counts["default/desk/urgency", "old"].errors == {"UNAVAILABLE": 2}
    assert counts["default/desk/urgency", "test"].errors == {}


async def test_metadata_pins_a_revision_whatever_its_weight(tmp_path: Path, triton: TritonServer) -> None:
    backends = backend(triton.port, revision="now"), backend(free_port(), weight=0, revision="next")
    async with gateway_over(write_table(tmp_path / "routes.yaml", table(*backends)), draw=0.99) as (_, client):
        for pinned in (None, "now"):  # as the routes name it, whatever the server calls itself
            assert (await client.predict("urgency", text="x", revision=pinned)).revision == "now"
            assert [part async for part in client.predict_stream("reply", text="x", revision=pinned)][
                -1
            ].revision == "now"
        with pytest.raises(Unavailable):
            await client.predict("urgency", text="x", revision="next")
        with pytest.raises(TaskNotFound) as caught:
            await client.predict("urgency", text="x", revision="past")
    assert caught.value.reason == "REVISION_NOT_FOUND"
    assert "revisions that do: next, now" in str(caught.value)


async def test_the_route_table_follows_its_file(
    tmp_path: Path, triton: TritonServer, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_table(tmp_path / "routes.yaml", table(backend(triton.port), tasks=["urgency"]))
    async with gateway_over(path, reload_s=0.01) as (gateway, client), asyncio.timeout(30):
        assert [task.name for task in await client.tasks()] == ["urgency"]
        await client.predict("urgency", text="x")

        write_table(path, table(backend(triton.port), tasks=["urgency", "pair"]))
        while len(await client.tasks()) == 1:
            pass
        await client.predict("pair", first="x", second="y")

        with caplog.at_level(logging.ERROR):
            path.write_text(path.read_text().replace("weight: 100", "weight: 90"))
            while not caplog.records:
                await client.predict("urgency", text="x")
        assert "the routes are not changed" in caplog.text
        assert "weights of task 'urgency' sum to 90, not 100" in caplog.text
        assert len(gateway.table.routes) == 2


async def test_health_and_reflection(routes: Path) -> None:
    async with gateway_over(routes) as (gateway, _), grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            response = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert response.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        async def reflect(**request: str) -> reflection_pb2.ServerReflectionResponse:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**request)]))
            return await call.read()

        listed = await reflect(list_services="")
        names = {service.name for service in listed.list_services_response.service}
        assert names == {
            "multitask.v1.TaskGateway",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        described = await reflect(file_containing_symbol=SERVICE)
        assert described.file_descriptor_response.file_descriptor_proto[0] == gateway_pb2.DESCRIPTOR.serialized_pb


async def test_the_blocking_client(routes: Path, engine: Engine) -> None:
    def use_client(address: str) -> None:
        with TaskClient(address) as client:
            assert client.task("urgency").labels == ("low", "medium", "high")
            assert {task.name for task in client.tasks()} == {"essay", "pair", "reply", "urgency"}
            [expected] = engine.classify([Request("urgency", {"text": "x"})])
            assert client.predict("urgency", text="x").answer == expected.label
            *pieces, last = client.predict_stream("reply", text="x")
            assert "".join(pieces) == last.text
            with pytest.raises(InvalidRequest, match="is missing"):
                client.predict("pair", first="x")
            with pytest.raises(InvalidRequest, match=r"fields\.text: is int, not text"):
                client.predict("urgency", text=3)

    async with gateway_over(routes) as (gateway, _):
        await asyncio.to_thread(use_client, f"127.0.0.1:{gateway.port}")
