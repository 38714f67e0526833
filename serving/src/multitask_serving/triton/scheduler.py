"""Schedules task requests on one engine. Independent of Triton: responses go through `requests.ResponseSender`.

`RequestScheduler.submit` returns at once. One thread runs the engine, in turns: all classifications that wait, as one
batch, then one decoding step of one batch of generations. So a long text delays a label by at most one decoding step,
and another text by at most one step of each running batch (`_MAX_BATCHES`). Texts of one model wait for earlier ones
only when together they exceed `decoding.TOKEN_BUDGETS`.

Batches form here and not in Triton's dynamic batcher: while a call of its backend lasts, a request that arrives can
wait there for a timer of 500 ms (measured: one request in six, from one client).

A sender that fails ends its own request only (`PendingRequest`). If the engine's thread ends by an error, so does the
process: otherwise the server would look healthy, and never answer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from weakref import WeakSet

from multitask_api.errors import UserError
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.errors import InvalidField, InvalidSampling, MissingField, UnknownTask
from multitask_serving.engine.generation.decoding import Step
from multitask_serving.engine.generation.sampling import Sampling
from multitask_serving.engine.types import Classification
from multitask_serving.triton import wire
from multitask_serving.triton.requests import PendingRequest, ResponseChunk, TaskRequest

log = logging.getLogger(__name__)

_MAX_BATCHES = 4
"""Batches of generations that run side by side. Later requests wait, and then form one batch."""

_SHUTTING_DOWN = wire.WireError(wire.SHUTTING_DOWN, "the server is shutting down; try again in a moment")


class RequestScheduler:
    """Runs requests on one engine until `close`.

    At most ``max_waiting`` requests wait; further ones get OVERLOADED. At most ``max_batch`` classifications form a
    batch. ``terminate`` is called if the engine's thread fails; the default ends the process.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_waiting: int,
        max_batch: int = 32,
        terminate: Callable[[], object] = lambda: os._exit(1),
    ) -> None:
        self._engine = engine
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._terminate = terminate
        self._changed = threading.Condition()  # guards the three below
        self._labels: deque[PendingRequest] = deque()
        self._texts: deque[tuple[PendingRequest, Sampling]] = deque()
        self._closing = False
        self._advanced: float | None = None
        self._pending: WeakSet[PendingRequest] = WeakSet()
        self._thread = threading.Thread(target=self._run_engine_thread, name="engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[TaskRequest]) -> None:
        """Queue the requests.

        Never raises for an invalid request: every request gets its response or error through its sender.
        """
        for request in map(PendingRequest, requests):
            self._pending.add(request)
            try:
                queued = self._enqueue(request)
            except UserError as error:
                request.fail(to_wire_error(error))
                continue
            if not queued:
                message = f"{self._max_waiting} requests are waiting already; try again in a moment"
                request.fail(wire.WireError(wire.OVERLOADED, message))

    def in_flight(self) -> int:
        """Requests that have not ended, those that wait included."""
        return sum(not request.finished for request in list(self._pending))

    def idle_s(self) -> float | None:
        """Seconds since the engine last advanced an answer; None: it has not yet."""
        return None if self._advanced is None else time.monotonic() - self._advanced

    def close(self) -> None:
        """Fail the requests that have not finished, and end the engine's thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _enqueue(self, request: PendingRequest) -> bool:
        """Whether there is room. Raises UserError for an invalid request."""
        options = request.inputs.options
        task = self._engine.check(request.engine_request)
        sampling = Sampling(**options.sampling)  # type: ignore[arg-type]
        if task.type != "Generation" and options.sampling:
            raise InvalidSampling(f"task {task.name!r} is a classification task. Leave sampling out")
        with self._changed:
            if len(self._labels) + len(self._texts) >= self._max_waiting:
                return False
            if task.type == "Generation":
                self._texts.append((request, sampling))
            else:
                self._labels.append(request)
            self._changed.notify()
        return True

    def _run_engine_thread(self) -> None:
        try:
            self._serve_until_closed()
        except BaseException:  # no other thread waits for this one: only the end of the process makes the error visible
            log.critical("the engine's thread failed; this process ends", exc_info=True)
            self._terminate()

    def _serve_until_closed(self) -> None:
        batches: deque[_GenerationBatch] = deque()
        while True:
            labels, texts = self._take_waiting(wait=not batches, with_texts=len(batches) < _MAX_BATCHES)
            if self._closing:
                break
            if labels:
                self._classify(labels)
                self._advanced = time.monotonic()
            if texts:
                batches.append(_GenerationBatch(self._engine, texts))
            if batches:
                batches[0].advance()
                self._advanced = time.monotonic()
                batches.rotate(-1)
                if batches[-1].finished:
                    batches.pop()
        for batch in batches:
            batch.fail(_SHUTTING_DOWN)
        for request in (*labels, *self._labels, *(request for request, _ in (*texts, *self._texts))):
            request.fail(_SHUTTING_DOWN)

    def _take_waiting(
        self, *, wait: bool, with_texts: bool
    ) -> tuple[list[PendingRequest], list[tuple[PendingRequest, Sampling]]]:
        """The next batch of classifications, and the texts that wait, without those that have ended.

        If nothing is queued and ``wait`` is set, waits for the first request or `close`.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._labels or self._texts or self._closing)
            labels = [self._labels.popleft() for _ in range(min(len(self._labels), self._max_batch))]
            texts = list(self._texts) if with_texts else []
            if with_texts:
                self._texts.clear()
        return (
            [request for request in labels if not request.check_ended()],
            [(request, sampling) for request, sampling in texts if not request.check_ended()],
        )

    def _classify(self, requests: Sequence[PendingRequest]) -> None:
        try:
            results: list[Classification] = self._engine.classify([request.engine_request for request in requests])
        except UserError as error:
            if len(requests) == 1:
                requests[0].fail(to_wire_error(error))
                return
            for request in requests:  # one invalid row fails the engine's whole call
                self._classify([request])
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller must get an error
            internal = _internal_error(error)
            for request in requests:
                request.fail(internal)
        else:
            for request, result in zip(requests, results, strict=True):
                request.send(ResponseChunk(result.label, result.scores), final=True)


class _GenerationBatch:
    """A running batch of generations."""

    def __init__(self, engine: Engine, requests: Sequence[tuple[PendingRequest, Sampling]]) -> None:
        self._engine = engine
        self._requests = requests
        self._steps: Iterator[Step] | None = None
        self._active = dict(enumerate(request for request, _ in requests))
        self._texts = [""] * len(requests)

    @property
    def finished(self) -> bool:
        """Whether every request of the batch has finished."""
        return not self._active

    def advance(self) -> None:
        """Generate the next token of every active row. The first call also encodes the prompts."""
        try:
            if self._steps is None:
                requests = [request.engine_request for request, _ in self._requests]
                sampling = [sampling for _, sampling in self._requests]
                self._steps = iter(self._engine.generate(requests, sampling=sampling))
            for _ in range(len(self._active)):  # about one decoding step of each model
                step = next(self._steps, None)
                if step is None:
                    raise RuntimeError(f"{len(self._active)} texts never finished")
                self._send_step(step)
                if self.finished:
                    return
        except UserError as error:
            self.fail(to_wire_error(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller must get an error
            self.fail(_internal_error(error))

    def fail(self, error: wire.WireError) -> None:
        """Send the error to every active request."""
        for request in self._active.values():
            request.fail(error)
        self._active.clear()

    def _send_step(self, step: Step) -> None:
        request = self._active.get(step.row)
        if request is None:
            return
        if request.check_ended():
            del self._active[step.row]
            return
        self._texts[step.row] += step.text_delta
        stream = request.inputs.options.stream
        if step.finish_reason is not None:
            text = step.text_delta if stream else self._texts[step.row]
            request.send(ResponseChunk(text, {}, step.finish_reason), final=True)
            del self._active[step.row]
        elif stream and step.text_delta:
            request.send(ResponseChunk(step.text_delta, {}), final=False)


def to_wire_error(error: UserError) -> wire.WireError:
    """An invalid request's error in its wire form."""
    if isinstance(error, UnknownTask):
        return wire.WireError(wire.UNKNOWN_TASK, str(error))
    if isinstance(error, MissingField):
        return wire.WireError(wire.MISSING_FIELD, str(error), f"fields.{error.field}")
    if isinstance(error, InvalidField):
        return wire.WireError(wire.INVALID_REQUEST, str(error), f"fields.{error.field}")
    field = "sampling" if isinstance(error, InvalidSampling) else ""
    return wire.WireError(wire.INVALID_REQUEST, str(error), field)


def _internal_error(error: Exception) -> wire.WireError:
    log.error("the model failed", exc_info=error)
    return wire.WireError(wire.INTERNAL, f"the model failed: {type(error).__name__}: {error}")
