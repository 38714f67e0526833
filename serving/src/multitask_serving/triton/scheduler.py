"""Schedules task requests on one engine. Independent of Triton: responses go through `requests.ResponseSender`.

Classifications are answered before `RequestScheduler.submit` returns, in the thread that submits them; Triton's dynamic
batcher has queued and joined them before. Generations wait in a queue of the scheduler and run in a thread of their
own, which advances all running batches token by token, the bundle's models in turn. So a long text delays a label by at
most one decoding step of the models, and another text by at most one step of each running batch (`_MAX_BATCHES`). Texts
of one model wait for earlier ones only when together they exceed `decoding.TOKEN_BUDGETS`. The engine is used by one
thread at a time; `PriorityLock` prefers classifications.

A sender that fails ends its own request only (`PendingRequest`). If the generation thread ends by an error, so does the
process: otherwise the server would look healthy, since it still answers classifications, but never generate text.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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

_SHUTTING_DOWN = "the server is shutting down; try again in a moment"


class PriorityLock:
    """A mutual-exclusion lock that high-priority waiters get before all others."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._locked = False
        self._high_priority_waiters = 0

    @contextmanager
    def acquire(self, *, high_priority: bool) -> Iterator[None]:
        """Wait for the lock, and keep it for the duration of the ``with`` block."""
        with self._condition:
            self._high_priority_waiters += high_priority
            self._condition.wait_for(lambda: not self._locked and (high_priority or not self._high_priority_waiters))
            self._high_priority_waiters -= high_priority
            self._locked = True
        try:
            yield
        finally:
            with self._condition:
                self._locked = False
                self._condition.notify_all()


class RequestScheduler:
    """Runs requests on one engine until `close`. At most ``max_waiting`` generations wait; further ones get OVERLOADED.

    ``terminate`` is called if the generation thread fails; the default ends the process.
    """

    def __init__(
        self, engine: Engine, *, max_waiting: int, terminate: Callable[[], object] = lambda: os._exit(1)
    ) -> None:
        self._engine = engine
        self._terminate = terminate
        self._engine_lock = PriorityLock()
        self._queue: queue.Queue[tuple[PendingRequest, Sampling] | None] = queue.Queue(max_waiting)
        self._closing = False
        self._thread = threading.Thread(target=self._run_generation_thread, name="generation", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[TaskRequest]) -> None:
        """Answer the classifications before returning, and queue the generations.

        Never raises for an invalid request: every request gets its response or error through its sender.
        """
        classifications = []
        for request in map(PendingRequest, requests):
            options = request.inputs.options
            try:
                task = self._engine.check(request.engine_request)
                sampling = _sampling(options)
                if task.type == "Generation":
                    self._queue.put_nowait((request, sampling))
                elif options.sampling:
                    raise InvalidSampling(f"task {task.name!r} is a classification task. Leave sampling out")
                else:
                    classifications.append(request)
            except UserError as error:
                request.fail(to_wire_error(error))
            except queue.Full:
                message = f"{self._queue.maxsize} generations are waiting already; try again in a moment"
                request.fail(wire.WireError(wire.OVERLOADED, message))
        if classifications:
            self._classify(classifications)

    def close(self) -> None:
        """Fail the generations that are still queued or running, and end their thread."""
        self._closing = True
        self._fail_queued()
        self._queue.put(None)
        self._thread.join()

    def _classify(self, requests: Sequence[PendingRequest]) -> None:
        try:
            with self._engine_lock.acquire(high_priority=True):
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

    def _run_generation_thread(self) -> None:
        try:
            self._generate_until_closed()
        except BaseException:  # no other thread waits for this one: only the end of the process makes the error visible
            log.critical("the generation thread failed; this process ends", exc_info=True)
            self._terminate()

    def _generate_until_closed(self) -> None:
        batches: list[_GenerationBatch] = []
        while not self._closing:
            if len(batches) < _MAX_BATCHES and (queued := self._take_queued(wait=not batches)):
                batches.append(_GenerationBatch(self._engine, queued))
            for batch in batches:
                with self._engine_lock.acquire(high_priority=False):
                    batch.advance()
            batches = [batch for batch in batches if not batch.finished]
        for batch in batches:
            batch.fail(wire.WireError(wire.INTERNAL, _SHUTTING_DOWN))

    def _take_queued(self, *, wait: bool) -> list[tuple[PendingRequest, Sampling]]:
        """All queued generations that are not cancelled. If none is queued and ``wait`` is set, wait for the first."""
        queued = []
        try:
            item = self._queue.get(block=wait)
            while item is not None:
                queued.append(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            pass
        return [(request, sampling) for request, sampling in queued if not request.check_cancelled()]

    def _fail_queued(self) -> None:
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is not None:
                item[0].fail(wire.WireError(wire.INTERNAL, _SHUTTING_DOWN))


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
        if request.check_cancelled():
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


def _sampling(options: wire.Options) -> Sampling:
    return Sampling(**options.sampling)  # type: ignore[arg-type]


def _internal_error(error: Exception) -> wire.WireError:
    log.error("the model failed", exc_info=error)
    return wire.WireError(wire.INTERNAL, f"the model failed: {type(error).__name__}: {error}")
