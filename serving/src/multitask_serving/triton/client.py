"""Calls our model on a Triton server over its streaming RPC. The model is decoupled: a request has many responses.

A streaming call is never cancelled and has no gRPC deadline: either one crashes Triton 2.51 with a segmentation fault
within about a hundred calls, and so do errors as statuses (``triton_grpc_error``). Later releases fix such races
(triton-inference-server/server, issues 7368 and 8034). Instead, when a caller leaves early, a separate request tells
our backend to stop (`wire.Options.cancel`), and the first call is read to its end in the background.
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

_DRAIN_TIMEOUT_S = 10.0
"""How long after its deadline an abandoned call may take to end. Our backend stops between two tokens."""

_CANCEL_RETRY_S = 1.0
"""How often an abandoned call's cancellation is sent again, should it have been lost in a full queue."""

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),  # one name may resolve to several pods
    ("grpc.enable_http_proxy", 0),  # the environment's proxy is for outside addresses, not for our own servers
    ("grpc.max_reconnect_backoff_ms", 2_000),  # by default, reconnecting after a restart may take two minutes
    # A node that is gone says nothing: an attempt to connect would take 20 s, and a call would last until its deadline.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", wire.KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 5_000),
    (
        "grpc.http2.ping_timeout_ms",
        5_000,
    ),  # while gRPC measures the bandwidth by a ping of its own, only this one counts
]


class BackendError(MultitaskError):
    """A Triton server did not answer a request."""


class BackendRejected(BackendError):
    """Our backend rejected the request with ``error``."""

    def __init__(self, error: wire.WireError) -> None:
        self.error = error
        super().__init__(error.message)


class BackendOverloaded(BackendError):
    """The queue is full."""


class BackendTimeout(BackendError):
    """The request's deadline passed, in the queue or in the model."""


class BackendUnavailable(BackendError):
    """The server is unreachable or shutting down, or its model process has died."""


class BackendFailed(BackendError):
    """An error that none of the others describes."""


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One response. ``text`` is the label or a piece of text; ``labels`` and ``scores`` are empty for a generation."""

    text: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    finish_reason: str
    revision: str


class TritonClient:
    """A client of one server, or of several behind one name. Connects on the first call. An async context manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = triton.InferenceServerClient(address, channel_args=list(_CHANNEL_OPTIONS))
        self._tasks: set[asyncio.Task[None]] = set()

    async def infer(
        self, task: str, fields: Mapping[str, str], options: wire.Options, *, timeout_s: float
    ) -> AsyncGenerator[InferResponse, None]:
        """The responses to one request, in order, within ``timeout_s`` seconds in total. Raises `BackendError`.

        Closing the iterator early, or cancelling the task that reads it, also stops the work on the server.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        request_id = uuid.uuid4().hex
        request = _request(task, fields, options, request_id=request_id, timeout_s=timeout_s)
        messages: asyncio.Queue[InferResponse | BackendError | None] = asyncio.Queue()
        reading = self._start_task(self._read(request, messages))
        ended = False
        try:
            while True:
                left = deadline - asyncio.get_running_loop().time()
                message = await asyncio.wait_for(messages.get(), max(left, 0))
                ended = not isinstance(message, InferResponse)
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
                self._start_task(self._cancel_and_drain(request_id, reading, max(left, 0) + _DRAIN_TIMEOUT_S))

    async def _read(
        self, request: dict[str, Any], messages: asyncio.Queue[InferResponse | BackendError | None]
    ) -> None:
        """Put the responses into ``messages``, followed by None or the error.

        The answer is whole with its label or the reason why its text ends. How the call ends after that is of no
        interest: a server that is killed just then has answered.
        """
        whole = False
        try:
            async for result, error in self._client.stream_infer(_one_request(request)):
                if whole:
                    continue  # read to its end all the same: see above for what a cancelled call does
                if error is not None:
                    messages.put_nowait(_error_from_text(str(error)))
                    return
                response = _to_response(result)
                if response is not None:
                    messages.put_nowait(response)
                final = result.get_response().parameters["triton_final_response"].bool_param
                whole = final or (response is not None and bool(response.labels or response.finish_reason))
                if whole:
                    messages.put_nowait(None)
        except grpc.aio.AioRpcError as error:
            if not whole:
                messages.put_nowait(_error_from_status(self.address, error))
            return
        if not whole:
            messages.put_nowait(BackendUnavailable(f"{self.address} ended the call before its final response"))

    async def _cancel_and_drain(self, request_id: str, reading: asyncio.Task[None], limit_s: float) -> None:
        """Tell the server to stop, and read the call to its end. Cut the call off after ``limit_s`` seconds."""
        clock = asyncio.get_running_loop().time
        end, cancellation = clock() + limit_s, None
        while not reading.done() and clock() < end:
            if cancellation is None or cancellation.done():
                request = _request("", {}, wire.Options(cancel=request_id), timeout_s=limit_s)
                cancellation = self._start_task(self._read(request, asyncio.Queue()))
            await asyncio.wait({reading}, timeout=_CANCEL_RETRY_S)
        if reading.cancel():
            log.warning("%s did not end an abandoned call within %g s", self.address, limit_s)

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Let abandoned calls end, for at most 10 s, and close the connection."""
        end = asyncio.get_running_loop().time() + _DRAIN_TIMEOUT_S
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
        "timeout": max(1, round(timeout_s * 1e6)),  # microseconds in Triton's queue
    }


def _text_input(name: str, text: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
    return tensor


def _to_response(result: Any) -> InferResponse | None:
    """The response, or None if it is empty: Triton may send the final flag separately."""
    text = result.as_numpy(wire.TEXT)
    if text is None:
        return None
    labels = tuple(label.decode() for label in result.as_numpy(wire.LABELS).reshape(-1))
    is_label = labels != ("",)
    return InferResponse(
        text=text.reshape(-1)[0].decode(),
        labels=labels if is_label else (),
        scores=tuple(result.as_numpy(wire.SCORES).reshape(-1).tolist()) if is_label else (),
        finish_reason=result.as_numpy(wire.FINISH_REASON).reshape(-1)[0].decode(),
        revision=result.as_numpy(wire.REVISION).reshape(-1)[0].decode(),
    )


def _error_from_text(message: str) -> BackendError:
    """The error for a Triton message. Triton has no codes for these, so its text decides."""
    ours = wire.WireError.decode(message)
    if ours is not None:
        kinds: dict[str, type[BackendError]] = {
            wire.OVERLOADED: BackendOverloaded,
            wire.TIMEOUT: BackendTimeout,
            wire.SHUTTING_DOWN: BackendUnavailable,
        }
        return kinds[ours.code](ours.message) if ours.code in kinds else BackendRejected(ours)
    if "maximum queue size" in message:
        return BackendOverloaded(message)
    if "timeout expired" in message:
        return BackendTimeout(message)
    unavailable = ("no available versions", "is not ready", "is not healthy", "is not found", "stub process")
    if any(words in message.lower() for words in unavailable):
        return BackendUnavailable(message)
    return BackendFailed(message)


def _error_from_status(address: str, error: grpc.aio.AioRpcError) -> BackendError:
    message = f"{address}: {error.details() or error.code().name}"
    by_text = _error_from_text(message)
    if not isinstance(by_text, BackendFailed):
        return by_text
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BackendTimeout(message)
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return BackendUnavailable(message)
    return by_text
