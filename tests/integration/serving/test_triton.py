"""The Triton model, called directly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as aio
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_serving.listening import AddressInUse
from multitask_serving.triton import server, wire
from multitask_serving.triton.client import (
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    InferResponse,
    TritonClient,
)
from multitask_serving.triton.probe import GoldenRequest, is_alive, replay
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_serving.triton.server import TritonFailed, TritonServer

PLAIN = wire.Options()


async def infer(
    client: TritonClient, task: str, fields: dict[str, str], options: wire.Options = PLAIN, timeout_s: float = 20
) -> list[InferResponse]:
    return [answer async for answer in client.infer(task, fields, options, timeout_s=timeout_s)]


async def test_a_classification_is_one_answer_and_the_engines(triton: TritonServer, engine: Engine) -> None:
    fields = {"text": "My parcel has not arrived"}
    async with TritonClient(triton.address) as client:
        (answer,) = await infer(client, "urgency", fields)
    [expected] = engine.classify([Request("urgency", fields)])
    assert answer.text == expected.label
    assert answer.labels == ("low", "medium", "high")
    assert answer.scores == pytest.approx(list(expected.scores.values()), abs=1e-6)
    assert answer.revision == "test"


async def test_a_generation_streams_the_engines_text(triton: TritonServer, engine: Engine) -> None:
    request = Request("reply", {"text": "Where is my invoice?"})
    [expected] = engine.generate_all([request])
    async with TritonClient(triton.address) as client:
        streamed = await infer(client, "reply", dict(request.fields), wire.Options(stream=True))
        whole = await infer(client, "reply", dict(request.fields))
    assert len(streamed) > 2
    assert "".join(part.text for part in streamed) == expected.text
    assert [part.finish_reason for part in streamed[:-1]] == [""] * (len(streamed) - 1)
    assert streamed[-1].finish_reason == expected.finish_reason
    assert [(answer.text, answer.labels, answer.scores) for answer in whole] == [(expected.text, (), ())]


async def test_one_bad_request_fails_alone(triton: TritonServer) -> None:
    async with TritonClient(triton.address) as client:
        results = await asyncio.gather(
            *(infer(client, "urgency", {"text": f"message {number}"} if number % 3 else {}) for number in range(9)),
            return_exceptions=True,
        )
    for number, result in enumerate(results):
        if number % 3:
            assert isinstance(result, list)
            assert result[0].text in {"low", "medium", "high"}
        else:
            assert isinstance(result, BackendRejected)
            assert (result.error.code, result.error.field) == (wire.MISSING_FIELD, "fields.text")


@pytest.fixture
def small(bundle: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """A server of its own for one test: at most one request may wait, and it may be broken."""
    settings = ModelSettings(threads=1, max_queue_size=1, max_batch_size=1)
    repository = write_repository("../../bundle", tmp_path / "exported" / "repository", settings)
    (tmp_path / "exported" / "bundle").symlink_to(bundle)
    with TritonServer.start(repository, tmp_path / "work") as server:
        yield server


async def test_overload_is_an_error_and_a_dead_stub_is_noticed(small: TritonServer, engine: Engine) -> None:
    [expected] = engine.classify([Request("urgency", {"text": "x"})])
    golden = [GoldenRequest("urgency", {"text": "x"}, expected.label)]
    assert await replay(small.address, golden) == []
    assert await is_alive(small.address, golden[0])

    async with TritonClient(small.address) as client:
        options = wire.Options(sampling={"max_new_tokens": 200})
        results = await asyncio.gather(
            *(infer(client, "essay", {"text": "x"}, options, 120) for _ in range(40)), return_exceptions=True
        )
    kinds = {type(result) for result in results}
    assert kinds == {list, BackendOverloaded}, results

    [stub] = small.stub_pids()
    os.kill(stub, signal.SIGKILL)
    [mismatch] = await replay(small.address, golden)
    assert "BackendUnavailable" in mismatch.actual
    assert not await is_alive(small.address, golden[0])
    assert small.lost_stubs() == [stub]
    with contextlib.closing(InferenceServerClient(small.address)) as raw:
        try:
            assert raw.is_model_ready("multitask")  # Triton still reports ready; this is why a probe is needed
        except InferenceServerException:
            assert small.exit_status() != 0  # rarer: Triton crashed on it


async def test_a_deadline_holds_in_the_model_and_in_the_queue(triton: TritonServer) -> None:
    async with TritonClient(triton.address) as client:
        with pytest.raises(BackendTimeout):
            await infer(client, "essay", {"text": "x"}, timeout_s=0.2)
        [answer] = await infer(client, "urgency", {"text": "x"})
        assert answer.labels


async def test_callers_who_leave_do_not_crash_the_server(triton: TritonServer) -> None:
    """Triton 2.51 crashes on about one in a hundred calls that are cancelled or exceed a gRPC deadline."""
    long = wire.Options(stream=True)
    async with TritonClient(triton.address) as client:

        async def cancel() -> None:
            async with contextlib.aclosing(client.infer("essay", {"text": "x"}, long, timeout_s=60)) as answers:
                await anext(answers)

        async def run_late() -> None:
            with pytest.raises(BackendTimeout):
                await infer(client, "essay", {"text": "x"}, long, timeout_s=0.02)

        async def be_wrong() -> None:
            with pytest.raises(BackendRejected):
                await infer(client, "nothing", {})

        slots = asyncio.Semaphore(16)

        async def in_a_slot(do: Callable[[], Awaitable[None]]) -> None:
            async with slots:
                await do()

        await asyncio.gather(*(in_a_slot(do) for _ in range(150) for do in (cancel, run_late, be_wrong)))
    assert triton.exit_status() is None
    async with TritonClient(triton.address) as client:
        assert (await infer(client, "urgency", {"text": "x"}))[0].labels


async def test_a_long_text_does_not_delay_a_label(triton: TritonServer) -> None:
    async with TritonClient(triton.address) as client:
        essay = client.infer("essay", {"text": "x"}, wire.Options(stream=True), timeout_s=120)
        assert await anext(essay)
        [label] = await infer(client, "urgency", {"text": "x"})
        [reply] = await infer(client, "reply", {"text": "x"})
        assert label.labels
        assert reply.finish_reason
        assert not (await anext(essay)).finish_reason  # the essay is still being written
        await essay.aclose()


async def test_our_model_answers_a_plain_triton_client(triton: TritonServer) -> None:
    """Without our client: the requests of another program, and the errors it gets."""

    def tensor(name: str, text: str) -> aio.InferInput:
        infer_input = aio.InferInput(name, [1, 1], "BYTES")
        infer_input.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
        return infer_input

    async def stream(*inputs: aio.InferInput) -> AsyncIterator[dict[str, object]]:
        yield {"model_name": "multitask", "inputs": list(inputs)}

    async with aio.InferenceServerClient(triton.address) as client:
        good = stream(tensor("task", "urgency"), tensor("fields", '{"text": "x"}'))
        [(result, error)] = [pair async for pair in client.stream_infer(good)]
        assert error is None
        assert result.as_numpy("labels").tolist() == [[b"low", b"medium", b"high"]]
        assert result.as_numpy("scores").sum() == pytest.approx(1)
        for task, fields, expected in (
            ("urgncy", "{}", wire.UNKNOWN_TASK),
            ("urgency", "{}", wire.MISSING_FIELD),
            ("urgency", "{", wire.INVALID_REQUEST),
            ("urgency", '{"text": 3}', wire.INVALID_REQUEST),
        ):
            bad = stream(tensor("task", task), tensor("fields", fields))
            [(result, error)] = [pair async for pair in client.stream_infer(bad)]
            assert wire.WireError.decode(str(error)).code == expected


def test_a_port_of_another_server_is_refused(triton: TritonServer, tmp_path: Path) -> None:
    with pytest.raises(AddressInUse, match=f"cannot listen at 127.0.0.1:{triton.port}: Address already in use"):
        TritonServer.start(tmp_path / "repository", tmp_path / "work", port=triton.port)


def test_another_server_that_has_taken_the_port_meanwhile_is_not_ours(
    bundle: Path, triton: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "free_port", lambda: triton.port)  # it was free when it was looked for
    repository = write_repository(bundle, tmp_path / "repository", ModelSettings(threads=1))
    with pytest.raises(TritonFailed, match=r"ended with status 1 before it was ready.*\n(.*\n)*.*already in use"):
        TritonServer.start(repository, tmp_path / "work")


def test_a_bundle_that_cannot_be_loaded_is_an_error_with_the_log(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "nowhere", tmp_path / "repository")
    with pytest.raises(TritonFailed, match=r"ended with status 1 before it was ready") as caught:
        TritonServer.start(repository, tmp_path / "work")
    assert "nowhere/bundle.json cannot be read: No such file or directory" in str(caught.value)
