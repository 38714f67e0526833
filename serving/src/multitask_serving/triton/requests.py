"""Requests and their response senders. A sender that fails does not affect other requests. Independent of Triton."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Protocol

from multitask_serving.engine.types import Request
from multitask_serving.triton import wire

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResponseChunk:
    """One response: ``text`` is the label, or the text since the last chunk; ``scores`` is empty for a generation."""

    text: str
    scores: dict[str, float]
    finish_reason: str = ""


class ResponseSender(Protocol):
    """Sends one request's responses. Exactly one of them is final: the last chunk, or an error."""

    def send(self, chunk: ResponseChunk, *, final: bool) -> None:
        """Send a chunk."""

    def fail(self, error: wire.WireError) -> None:
        """Send an error, as the final response."""

    def is_cancelled(self) -> bool:
        """Whether the caller has cancelled the request."""


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A parsed request and the sender of its responses.

    ``deadline``: when its caller stops waiting, in seconds of `time.monotonic`.
    """

    inputs: wire.Inputs
    sender: ResponseSender
    deadline: float = math.inf

    @property
    def engine_request(self) -> Request:
        """The request in the engine's form."""
        return Request(self.inputs.task, self.inputs.fields)


class PendingRequest:
    """A request until its final response. An exception of its sender ends this request only.

    Nothing is sent after the final response.
    """

    def __init__(self, request: TaskRequest) -> None:
        self.inputs = request.inputs
        self.engine_request = request.engine_request
        self._deadline = request.deadline
        self._sender = request.sender
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether the final response has been sent."""
        return self._finished

    def send(self, chunk: ResponseChunk, *, final: bool) -> None:
        """Send a chunk, unless the request has finished."""
        if self._finished:
            return
        try:
            self._sender.send(chunk, final=final)
        except Exception as error:  # noqa: BLE001 - any failure here concerns this request; others share the thread
            self._sender_failed(error)
        else:
            self._finished = final

    def fail(self, error: wire.WireError) -> None:
        """Send an error as the final response, unless the request has finished."""
        if not self._finished:
            self._finished = True
            send_error(self._sender, error)

    def check_ended(self) -> bool:
        """Whether the request has ended. It ends now if its caller has cancelled it or its deadline has passed."""
        if self._finished:
            return True
        if time.monotonic() > self._deadline:
            self.fail(wire.WireError(wire.TIMEOUT, "the request's time-out passed before its answer was ready"))
            return True
        try:
            cancelled = self._sender.is_cancelled()
        except Exception as error:  # noqa: BLE001 - as above
            self._sender_failed(error)
            return True
        if cancelled:
            log.info("task %r: cancelled by the caller", self.inputs.task)
            self.fail(wire.WireError(wire.CANCELLED, "the caller cancelled the request"))
        return cancelled

    def _sender_failed(self, error: Exception) -> None:
        log.error("task %r: a response could not be sent", self.inputs.task, exc_info=error)
        self.fail(wire.WireError(wire.INTERNAL, f"the response could not be sent: {type(error).__name__}: {error}"))


def send_error(sender: ResponseSender, error: wire.WireError) -> None:
    """Send an error as the final response. If that fails, it is only logged."""
    try:
        sender.fail(error)
    except Exception:
        log.exception("an error could not be sent: %s", error.message)
