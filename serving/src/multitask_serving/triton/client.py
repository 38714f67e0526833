"""Calls our model on a Triton server, over its streaming RPC (the model is decoupled: many answers to one request).

A streaming call is never cancelled and never given a gRPC deadline: either crashes Triton 2.51 with a segmentation
fault within a hundred calls or so, and so does asking for errors as statuses (``triton_grpc_error``). Later releases
fix races of this kind (triton-inference-server/server, issues 7368 and 8034). Instead, whoever leaves early is
forgotten here, a request of its own tells our backend to stop (`wire.Options`), and the call is read to its end unseen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import numpy as np
import tritonclient.grpc.aio as triton

from multitask_api.errors import MultitaskError
from multitask_serving.triton import wire

log = logging.getLogger(__name__)

_DRAIN_S = 10.0
"""How long after its deadline a call that nobody waits for may take to end. Our backend stops between two tokens."""

_TELL_AGAIN_S = 1.0

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),  # one name may stand for several pods
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment's leads out, not to our own servers
    ("grpc.max_reconnect_backoff_ms", 2_000),  # the default waits up to two minutes after a restart
]


class BackendError(MultitaskError):
    """A Triton server did not answer a request."""


class BackendRefused(BackendError):
    """Our backend answered with an error of its own: ``error`` says which."""

    def __init__(self, error: wire.WireError) -> None:
        self.error = error
        super().__init__(error.message)


class BackendOverloaded(BackendError):
    """The queue is full."""


class BackendTimeout(BackendError):
    """The request's time ran out, in the queue or in the model."""


class BackendUnavailable(BackendError):
    """Nothing there that could answer: not reachable, shutting down, or its model process is dead."""


class BackendFailed(BackendError):
    """An error that none of the others describes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. ``labels`` and ``scores`` are empty for a generation; ``text`` is the label or a piece of text."""

    text: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    finish_reason: str
    revision: str


class TritonClient:
    """One server, or several behind one name. Makes its connection on the first call; an async context manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = triton.InferenceServerClient(address, channel_args=list(_CHANNEL_OPTIONS))
        self._tasks: set[asyncio.Task[None]] = set()

    async def infer(
        self, task: str, fields: Mapping[str, str], options: wire.Options, *, timeout_s: float
    ) -> AsyncGenerator[Answer, None]:
        """The answers to one request, in order, within ``timeout_s`` seconds in all. Raises `BackendError`.

        Closing the iterator early, or cancelling the task that reads it, stops the work on the server.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        request_id = uuid.uuid4().hex
        request = _request(task, fields, options, request_id=request_id, timeout_s=timeout_s)
        messages: asyncio.Queue[Answer | BackendError | None] = asyncio.Queue()
        reading = self._start(self._read(request, messages))
        ended = False
        try:
            while True:
                left = deadline - asyncio.get_running_loop().time()
                message = await asyncio.wait_for(messages.get(), max(left, 0))
                ended = not isinstance(message, Answer)
                if isinstance(message, BackendError):
                    raise message
                if message is None:
                    return
                yield message
        except TimeoutError:
            raise BackendTimeout(f"{self.address}: no answer within {timeout_s:g} s") from None
        finally:
            if not ended and not reading.done():
                left = deadline - asyncio.get_running_loop().time()
                self._start(self._abandon(request_id, reading, max(left, 0) + _DRAIN_S))

    async def _read(self, request: dict[str, Any], messages: asyncio.Queue[Answer | BackendError | None]) -> None:
        """Put the answers into ``messages``, and at the end None or what went wrong."""
        final = False
        try:
            async for result, error in self._client.stream_infer(_one_request(request)):
                if error is not None:
                    messages.put_nowait(_from_text(str(error)))
                    return
                answer = _answer(result)
                if answer is not None:
                    messages.put_nowait(answer)
                final = result.get_response().parameters["triton_final_response"].bool_param
        except grpc.aio.AioRpcError as error:
            messages.put_nowait(_from_status(self.address, error))
            return
        messages.put_nowait(
            None if final else BackendUnavailable(f"{self.address} ended the answer before its last part")
        )

    async def _abandon(self, request_id: str, reading: asyncio.Task[None], limit_s: float) -> None:
        """Tell the server to stop, and let the call come to its end. Only a server that hangs has its call cut off."""
        clock = asyncio.get_running_loop().time
        end, telling = clock() + limit_s, None
        while not reading.done() and clock() < end:
            if telling is None or telling.done():  # told again if the queue was too full to hear it
                request = _request("", {}, wire.Options(cancel=request_id), timeout_s=limit_s)
                telling = self._start(self._read(request, asyncio.Queue()))
            await asyncio.wait({reading}, timeout=_TELL_AGAIN_S)
        if reading.cancel():
            log.warning("%s did not end a call that nobody waits for within %g s", self.address, limit_s)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Let the calls that were left early come to their end, and close the connection."""
        end = asyncio.get_running_loop().time() + _DRAIN_S
        while self._tasks and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        for task in self._tasks:
            task.cancel()
        await self._client.close()

    async def __aenter__(self) -> TritonClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _one_request(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield request


def _request(
    task: str, fields: Mapping[str, str], options: wire.Options, *, timeout_s: float, request_id: str = ""
) -> dict[str, Any]:
    texts = {wire.TASK: task, wire.FIELDS: json.dumps(dict(fields)), wire.OPTIONS: options.encode()}
    return {
        "model_name": wire.MODEL,
        "inputs": [_text_input(name, text) for name, text in texts.items()],
        "request_id": request_id,
        "timeout": max(1, round(timeout_s * 1e6)),  # microseconds it may wait in Triton's queue
    }


def _text_input(name: str, text: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
    return tensor


def _answer(result: Any) -> Answer | None:
    """None for the empty response that may carry the final flag alone."""
    text = result.as_numpy(wire.TEXT)
    if text is None:
        return None
    labels = tuple(label.decode() for label in result.as_numpy(wire.LABELS).reshape(-1))
    is_label = labels != ("",)
    return Answer(
        text=text.reshape(-1)[0].decode(),
        labels=labels if is_label else (),
        scores=tuple(result.as_numpy(wire.SCORES).reshape(-1).tolist()) if is_label else (),
        finish_reason=result.as_numpy(wire.FINISH_REASON).reshape(-1)[0].decode(),
        revision=result.as_numpy(wire.REVISION).reshape(-1)[0].decode(),
    )


def _from_text(message: str) -> BackendError:
    """An error by its words alone: Triton has no codes for these."""
    ours = wire.WireError.decode(message)
    if ours is not None:
        return BackendOverloaded(ours.message) if ours.code == wire.OVERLOADED else BackendRefused(ours)
    if "maximum queue size" in message:
        return BackendOverloaded(message)
    if "timeout expired" in message:
        return BackendTimeout(message)
    gone = ("no available versions", "is not ready", "is not healthy", "is not found", "stub process")
    if any(words in message.lower() for words in gone):
        return BackendUnavailable(message)
    return BackendFailed(message)


def _from_status(address: str, error: grpc.aio.AioRpcError) -> BackendError:
    message = f"{address}: {error.details() or error.code().name}"
    by_text = _from_text(message)
    if not isinstance(by_text, BackendFailed):
        return by_text
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BackendTimeout(message)
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return BackendUnavailable(message)
    return by_text
