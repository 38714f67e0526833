"""Answers task requests with the engine. Knows nothing of Triton: `callers.Sender` is the way back to a caller.

Classifications are answered at once, in the thread that brings them. Generations go to a thread of their own, which
advances all that are running token by token, the models of the bundle in turn: a long text delays a label by no more
than one step of the models, and another text by no more than one step of every batch that is under way (`_MAX_RUNS`).
Only texts of one model that together pass `generate.TOKEN_BUDGETS` wait for those before them. The engine belongs to
one thread at a time: `Turns` hands it over, labels first.

A caller whose sender breaks loses that call alone (`Caller`). Should the generation thread end all the same, the
process ends with it: a server that answers labels but never a text would look healthy to everyone but its callers.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from multitask_api.errors import UserError
from multitask_serving.engine.answers import Classification
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.errors import InvalidField, InvalidSampling, MissingField, UnknownTask
from multitask_serving.engine.generate import Step
from multitask_serving.engine.sampling import Sampling
from multitask_serving.triton import wire
from multitask_serving.triton.callers import Call, Caller, Part

log = logging.getLogger(__name__)

_MAX_RUNS = 4
"""Batches of generations that advance side by side; later ones wait and then go together."""


class Turns:
    """Hands the engine from thread to thread; whoever is ``urgent`` goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._urgent = 0

    @contextmanager
    def take(self, *, urgent: bool) -> Iterator[None]:
        """Wait for the engine, and hold it inside the ``with``."""
        with self._changed:
            self._urgent += urgent
            self._changed.wait_for(lambda: not self._busy and (urgent or not self._urgent))
            self._urgent -= urgent
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class Answering:
    """Answers calls with one engine until `close`. At most ``max_waiting`` generations wait; more is an error.

    ``die`` is called should the generation thread fail; the default ends the process.
    """

    def __init__(self, engine: Engine, *, max_waiting: int, die: Callable[[], object] = lambda: os._exit(1)) -> None:
        self._engine = engine
        self._die = die
        self._turns = Turns()
        self._waiting: queue.Queue[tuple[Caller, Sampling] | None] = queue.Queue(max_waiting)
        self._closing = False
        self._thread = threading.Thread(target=self._generate_or_die, name="generation", daemon=True)
        self._thread.start()

    def answer(self, calls: Sequence[Call]) -> None:
        """Answer the classifications now, and the generations in their own time. Raises nothing for a bad request."""
        labels = []
        for call in map(Caller, calls):
            try:
                task = self._engine.check(call.request)
                sampling = _sampling(call.inputs.options)
                if task.type == "Generation":
                    self._waiting.put_nowait((call, sampling))
                elif call.inputs.options.sampling:
                    raise InvalidSampling(f"task {task.name!r} gives a label. Leave sampling out")
                else:
                    labels.append(call)
            except UserError as error:
                call.fail(to_wire(error))
            except queue.Full:
                message = f"{self._waiting.maxsize} generations are waiting already; try again in a moment"
                call.fail(wire.WireError(wire.OVERLOADED, message))
        if labels:
            self._classify(labels)

    def close(self) -> None:
        """Fail the generations still under way, and end their thread."""
        self._closing = True
        self._drop_waiting()
        self._waiting.put(None)
        self._thread.join()

    def _classify(self, calls: Sequence[Caller]) -> None:
        try:
            with self._turns.take(urgent=True):
                results: list[Classification] = self._engine.classify([call.request for call in calls])
        except UserError as error:
            if len(calls) == 1:
                calls[0].fail(to_wire(error))
                return
            for call in calls:  # one bad row fails the engine's whole call
                self._classify([call])
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller must hear of it
            wired = _internal(error)
            for call in calls:
                call.fail(wired)
        else:
            for call, result in zip(calls, results, strict=True):
                call.send(Part(result.label, result.scores), final=True)

    def _generate_or_die(self) -> None:
        try:
            self._generate_forever()
        except BaseException:  # nobody waits for this thread: only the process can show that it ended
            log.critical("the generation thread failed; this process ends", exc_info=True)
            self._die()

    def _generate_forever(self) -> None:
        runs: list[_Run] = []
        while not self._closing:
            if len(runs) < _MAX_RUNS and (batch := self._next_batch(wait=not runs)):
                runs.append(_Run(self._engine, batch))
            for run in runs:
                with self._turns.take(urgent=False):
                    run.advance()
            runs = [run for run in runs if not run.ended]
        for run in runs:
            run.fail(wire.WireError(wire.INTERNAL, _SHUTTING_DOWN))

    def _next_batch(self, *, wait: bool) -> list[tuple[Caller, Sampling]]:
        batch = []
        try:
            item = self._waiting.get(block=wait)
            while item is not None:
                batch.append(item)
                item = self._waiting.get_nowait()
        except queue.Empty:
            pass
        return [(call, sampling) for call, sampling in batch if not call.is_gone()]

    def _drop_waiting(self) -> None:
        while True:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return
            if item is not None:
                item[0].fail(wire.WireError(wire.INTERNAL, _SHUTTING_DOWN))


_SHUTTING_DOWN = "the server is shutting down; try again in a moment"


class _Run:
    """A batch of generations under way."""

    def __init__(self, engine: Engine, batch: Sequence[tuple[Caller, Sampling]]) -> None:
        self._engine = engine
        self._batch = batch
        self._steps: Iterator[Step] | None = None
        self._open = dict(enumerate(call for call, _ in batch))
        self._texts = [""] * len(batch)

    @property
    def ended(self) -> bool:
        """Nobody of the batch waits for anything."""
        return not self._open

    def advance(self) -> None:
        """Give every row that is still going its next token. The first time, encode the prompts."""
        try:
            if self._steps is None:
                requests = [call.request for call, _ in self._batch]
                self._steps = iter(self._engine.generate(requests, sampling=[sampling for _, sampling in self._batch]))
            for _ in range(len(self._open)):  # about one step of each model
                step = next(self._steps, None)
                if step is None:
                    raise RuntimeError(f"{len(self._open)} texts never finished")
                self._pass_on(step)
                if self.ended:
                    return
        except UserError as error:
            self.fail(to_wire(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller must hear of it
            self.fail(_internal(error))

    def fail(self, error: wire.WireError) -> None:
        """Tell everyone who still waits."""
        for call in self._open.values():
            call.fail(error)
        self._open.clear()

    def _pass_on(self, step: Step) -> None:
        call = self._open.get(step.row)
        if call is None:
            return
        if call.is_gone():
            del self._open[step.row]
            return
        self._texts[step.row] += step.text_delta
        stream = call.inputs.options.stream
        if step.finish_reason is not None:
            text = step.text_delta if stream else self._texts[step.row]
            call.send(Part(text, {}, step.finish_reason), final=True)
            del self._open[step.row]
        elif stream and step.text_delta:
            call.send(Part(step.text_delta, {}), final=False)


def to_wire(error: UserError) -> wire.WireError:
    """A bad request's error as it goes over the wire."""
    if isinstance(error, UnknownTask):
        return wire.WireError(wire.UNKNOWN_TASK, str(error))
    if isinstance(error, MissingField):
        return wire.WireError(wire.MISSING_FIELD, str(error), f"fields.{error.field}")
    if isinstance(error, InvalidField):
        return wire.WireError(wire.INVALID_REQUEST, str(error), f"fields.{error.field}")
    place = "sampling" if isinstance(error, InvalidSampling) else ""
    return wire.WireError(wire.INVALID_REQUEST, str(error), place)


def _sampling(options: wire.Options) -> Sampling:
    return Sampling(**options.sampling)  # type: ignore[arg-type]


def _internal(error: Exception) -> wire.WireError:
    log.error("the model failed", exc_info=error)
    return wire.WireError(wire.INTERNAL, f"the model failed: {type(error).__name__}: {error}")
