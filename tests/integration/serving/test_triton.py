"""The Triton model, called directly."""

from __future__ import annotations

import asyncio

import pytest

from multitask_serving.engine.answers import Request
from multitask_serving.engine.engine import Engine
from multitask_serving.triton import wire
from multitask_serving.triton.client import Answer, BackendRefused, TritonClient
from multitask_serving.triton.server import TritonServer

PLAIN = wire.Options()


async def ask(
    client: TritonClient, task: str, fields: dict[str, str], options: wire.Options = PLAIN, timeout_s: float = 20
) -> list[Answer]:
    return [answer async for answer in client.infer(task, fields, options, timeout_s=timeout_s)]


async def test_a_classification_is_one_answer_and_the_engines(triton: TritonServer, engine: Engine) -> None:
    fields = {"text": "My parcel has not arrived"}
    async with TritonClient(triton.address) as client:
        (answer,) = await ask(client, "urgency", fields)
    [expected] = engine.classify([Request("urgency", fields)])
    assert answer.text == expected.label
    assert answer.labels == ("low", "medium", "high")
    assert answer.scores == pytest.approx(list(expected.scores.values()), abs=1e-6)
    assert answer.revision == "test"


async def test_a_generation_streams_the_engines_text(triton: TritonServer, engine: Engine) -> None:
    request = Request("reply", {"text": "Where is my invoice?"})
    [expected] = engine.generate_all([request])
    async with TritonClient(triton.address) as client:
        streamed = await ask(client, "reply", dict(request.fields), wire.Options(stream=True))
        whole = await ask(client, "reply", dict(request.fields))
    assert len(streamed) > 2
    assert "".join(part.text for part in streamed) == expected.text
    assert [part.finish_reason for part in streamed[:-1]] == [""] * (len(streamed) - 1)
    assert streamed[-1].finish_reason == expected.finish_reason
    assert [(answer.text, answer.labels, answer.scores) for answer in whole] == [(expected.text, (), ())]


async def test_one_bad_request_fails_alone(triton: TritonServer) -> None:
    async with TritonClient(triton.address) as client:
        results = await asyncio.gather(
            *(ask(client, "urgency", {"text": f"message {number}"} if number % 3 else {}) for number in range(9)),
            return_exceptions=True,
        )
    for number, result in enumerate(results):
        if number % 3:
            assert isinstance(result, list)
            assert result[0].text in {"low", "medium", "high"}
        else:
            assert isinstance(result, BackendRefused)
            assert (result.error.code, result.error.field) == (wire.MISSING_FIELD, "fields.text")
