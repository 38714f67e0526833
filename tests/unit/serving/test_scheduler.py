"""The scheduler, with a real engine and without Triton."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Classification, Request
from multitask_serving.triton import wire
from multitask_serving.triton.requests import ResponseChunk, TaskRequest
from multitask_serving.triton.scheduler import RequestScheduler
from support.engine_builders import llama, served_task, write_bundle

WAIT_S = 60


class RecordingSender:
    """Records its responses. Reports cancellation after ``cancelled_after`` chunks."""

    def __init__(self, cancelled_after: int | None = None) -> None:
        self.chunks: list[ResponseChunk] = []
        self.error: wire.WireError | None = None
        self.first, self.done = threading.Event(), threading.Event()
        self.final_responses = 0
        self._cancelled_after = cancelled_after

    def send(self, chunk: ResponseChunk, *, final: bool) -> None:
        self.chunks.append(chunk)
        self.first.set()
        if final:
            self._end()

    def fail(self, error: wire.WireError) -> None:
        self.error = error
        self._end()

    def is_cancelled(self) -> bool:
        return self._cancelled_after is not None and len(self.chunks) >= self._cancelled_after

    def _end(self) -> None:
        self.final_responses += 1
        self.done.set()

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder: Path = tmp_path_factory.mktemp("bundle")
    tasks = [
        served_task("urgency", "Urgency of {text}:", labels=["low", "high"]),
        served_task("reply", "Reply to {text}:", max_new_tokens=8),
        served_task("essay", "Reply to {text}:", max_new_tokens=500, max_length=1000),
    ]
    model = llama(hidden=16, layers=1)
    with torch.no_grad():
        model.lm_head.weight[2] = 0  # EOS is never the most probable token, so texts have the maximum length
    write_bundle(folder, tasks, models={"base": model})
    return Engine.load(folder)


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[RequestScheduler]:
    scheduler = RequestScheduler(engine, max_waiting=8)
    yield scheduler
    scheduler.close()


def request(task: str, sender: RecordingSender, text: str | None = "x", **options: object) -> TaskRequest:
    fields = {} if text is None else {"text": text}
    return TaskRequest(wire.Inputs(task, fields, wire.Options(**options)), sender)  # type: ignore[arg-type]


def submit_and_wait(scheduler: RequestScheduler, *requests: TaskRequest) -> None:
    scheduler.submit(requests)
    for submitted in requests:
        assert submitted.sender.done.wait(WAIT_S)  # type: ignore[attr-defined]
        assert submitted.sender.final_responses == 1  # type: ignore[attr-defined]


def test_a_mixed_batch_gets_each_its_own(scheduler: RequestScheduler, engine: Engine) -> None:
    senders = [RecordingSender() for _ in range(6)]
    label, text, streamed, unknown, missing, sampled = senders
    submit_and_wait(
        scheduler,
        request("urgency", label),
        request("reply", text),
        request("reply", streamed, stream=True),
        request("urgncy", unknown),
        request("urgency", missing, None),
        request("urgency", sampled, sampling={"seed": 1}),
    )
    [expected] = engine.classify([Request("urgency", {"text": "x"})])
    assert [(chunk.text, chunk.scores) for chunk in label.chunks] == [(expected.label, pytest.approx(expected.scores))]
    [whole] = engine.generate_all([Request("reply", {"text": "x"})])
    assert [(chunk.text, chunk.finish_reason) for chunk in text.chunks] == [(whole.text, whole.finish_reason)]
    assert streamed.text == whole.text
    assert len(streamed.chunks) > 1
    assert [sender.error and (sender.error.code, sender.error.field) for sender in senders] == [
        None,
        None,
        None,
        (wire.UNKNOWN_TASK, ""),
        (wire.MISSING_FIELD, "fields.text"),
        (wire.INVALID_REQUEST, "sampling"),
    ]


def test_invalid_sampling_is_an_invalid_request(scheduler: RequestScheduler) -> None:
    sender = RecordingSender()
    submit_and_wait(scheduler, request("reply", sender, sampling={"temperature": -1}))
    assert sender.error == wire.WireError(
        wire.INVALID_REQUEST, "temperature is -1; it must be from 0 (greedy) to 10", "sampling"
    )


def test_labels_and_short_texts_overtake_a_long_one(scheduler: RequestScheduler) -> None:
    essay, label, reply = RecordingSender(), RecordingSender(), RecordingSender()
    scheduler.submit([request("essay", essay, stream=True)])
    assert essay.first.wait(WAIT_S)
    submit_and_wait(scheduler, request("urgency", label), request("reply", reply))
    assert not essay.done.is_set()


def test_a_cancelled_request_stops_and_the_others_continue(scheduler: RequestScheduler) -> None:
    cancelled, other = RecordingSender(cancelled_after=2), RecordingSender()
    submit_and_wait(scheduler, request("essay", cancelled, stream=True), request("reply", other))
    assert cancelled.error is not None
    assert cancelled.error.code == wire.CANCELLED
    assert len(cancelled.chunks) == 2
    assert other.chunks[-1].finish_reason


class BusyEngine:
    """An engine whose classification lasts until ``free`` is set. Records the size of each batch."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.check, self.generate = engine.check, engine.generate
        self.busy, self.free = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def classify(self, requests: Sequence[Request]) -> list[Classification]:
        self.batches.append(len(requests))
        self.busy.set()
        assert self.free.wait(WAIT_S)
        return self._engine.classify(requests)


@pytest.fixture
def busy(engine: Engine) -> Iterator[tuple[BusyEngine, RequestScheduler, RecordingSender]]:
    """A scheduler whose engine is at work on one label."""
    model, first = BusyEngine(engine), RecordingSender()
    scheduler = RequestScheduler(model, max_waiting=10, max_batch=4)  # type: ignore[arg-type]
    scheduler.submit([request("urgency", first)])
    assert model.busy.wait(WAIT_S)
    yield model, scheduler, first
    model.free.set()
    scheduler.close()


Busy = tuple[BusyEngine, RequestScheduler, RecordingSender]


def test_submitting_returns_at_once_and_what_arrives_meanwhile_forms_batches(busy: Busy) -> None:
    model, scheduler, first = busy
    senders = [RecordingSender() for _ in range(6)]
    for sender in senders:
        scheduler.submit([request("urgency", sender)])  # returns, although the engine is at work
    assert not first.done.is_set()
    model.free.set()
    for sender in (first, *senders):
        assert sender.done.wait(WAIT_S)
        assert sender.chunks[0].text in {"low", "high"}
    assert model.batches == [1, 4, 2]


def test_what_has_not_ended_is_in_flight_and_the_engine_says_when_it_last_advanced(busy: Busy) -> None:
    model, scheduler, running = busy
    senders = [RecordingSender() for _ in range(3)]
    scheduler.submit([request(task, sender) for task, sender in zip(("urgency", "reply", "no"), senders, strict=True)])
    assert senders[2].done.wait(WAIT_S)  # no such task: it has its error
    assert (scheduler.in_flight(), scheduler.idle_s()) == (3, None)
    model.free.set()
    for sender in (running, *senders):
        assert sender.done.wait(WAIT_S)
    assert scheduler.in_flight() == 0
    idle = scheduler.idle_s()
    assert idle is not None
    assert 0 <= idle < WAIT_S


def test_too_many_waiting_requests_are_an_error(busy: Busy) -> None:
    model, scheduler, _ = busy
    senders = [RecordingSender() for _ in range(14)]
    scheduler.submit([request("reply" if number % 2 else "urgency", sender) for number, sender in enumerate(senders)])
    model.free.set()
    for sender in senders:
        assert sender.done.wait(WAIT_S)
    message = "10 requests are waiting already; try again in a moment"
    assert [sender.error for sender in senders] == [None] * 10 + [wire.WireError(wire.OVERLOADED, message)] * 4


@pytest.mark.parametrize("task", ["urgency", "reply"])
def test_what_nobody_waits_for_any_more_is_not_run(busy: Busy, task: str) -> None:
    model, scheduler, _ = busy
    late, cancelled, waiting = RecordingSender(), RecordingSender(cancelled_after=0), RecordingSender()
    expired = replace(request(task, late), deadline=time.monotonic())
    scheduler.submit([expired, request(task, cancelled), request(task, waiting)])
    model.free.set()
    for sender in (late, cancelled, waiting):
        assert sender.done.wait(WAIT_S)
    assert late.error == wire.WireError(wire.TIMEOUT, "the request's time-out passed before its answer was ready")
    assert cancelled.error is not None
    assert cancelled.error.code == wire.CANCELLED
    assert (waiting.error, model.batches) == (None, [1, 1] if task == "urgency" else [1])


def test_a_text_ends_at_its_deadline(scheduler: RequestScheduler) -> None:
    sender = RecordingSender()
    scheduler.submit([replace(request("essay", sender, stream=True), deadline=time.monotonic() + 0.2)])
    assert sender.done.wait(WAIT_S)
    assert sender.error is not None
    assert sender.error.code == wire.TIMEOUT


@pytest.mark.parametrize("task", ["urgency", "reply"])
def test_closing_fails_what_waits(busy: Busy, task: str) -> None:
    model, scheduler, _ = busy
    sender = RecordingSender()
    scheduler.submit([request(task, sender)])
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    while not scheduler._closing:
        closing.join(0.01)
    model.free.set()
    closing.join(WAIT_S)
    assert sender.error == wire.WireError(wire.SHUTTING_DOWN, "the server is shutting down; try again in a moment")


def test_closing_fails_running_generations(engine: Engine) -> None:
    scheduler, sender = RequestScheduler(engine, max_waiting=2), RecordingSender()
    scheduler.submit([request("essay", sender, stream=True)])
    assert sender.first.wait(WAIT_S)
    scheduler.close()
    assert sender.error == wire.WireError(wire.SHUTTING_DOWN, "the server is shutting down; try again in a moment")
    assert sender.final_responses == 1


class FailingEngine:
    """An engine whose model fails."""

    def __init__(self, engine: Engine) -> None:
        self.check = engine.check

    def classify(self, requests: object) -> object:
        raise RuntimeError("out of memory")

    generate = classify

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


def test_a_failing_model_is_an_error_for_each_request_and_the_scheduler_continues(engine: Engine) -> None:
    failing = FailingEngine(engine)
    failing.generate = lambda requests, sampling: failing.classify(requests)  # type: ignore[method-assign]
    scheduler = RequestScheduler(failing, max_waiting=8)  # type: ignore[arg-type]
    for _ in range(2):
        senders = [RecordingSender() for _ in range(4)]
        submit_and_wait(
            scheduler, *[request(task, sender) for task, sender in zip(["urgency", "reply"] * 2, senders, strict=True)]
        )
        for sender in senders:
            assert sender.error == wire.WireError(wire.INTERNAL, "the model failed: RuntimeError: out of memory")
    scheduler.close()


class BrokenSender(RecordingSender):
    """A sender whose methods ``fails`` raise, as Triton's do when its shared memory is full."""

    def __init__(self, *fails: str) -> None:
        super().__init__()
        self._fails = fails
        self.called = threading.Event()

    def _fail_if_broken(self, name: str) -> None:
        if name in self._fails:
            self.called.set()
            raise RuntimeError(f"{name}: no shared memory")

    def send(self, chunk: ResponseChunk, *, final: bool) -> None:
        self._fail_if_broken("send")
        super().send(chunk, final=final)

    def fail(self, error: wire.WireError) -> None:
        self._fail_if_broken("fail")
        super().fail(error)

    def is_cancelled(self) -> bool:
        self._fail_if_broken("is_cancelled")
        return super().is_cancelled()


@pytest.mark.parametrize(
    "fails", [("send",), ("is_cancelled",), ("send", "fail"), ("is_cancelled", "fail")], ids=" and ".join
)
@pytest.mark.parametrize(("task", "options"), [("urgency", {}), ("reply", {}), ("reply", {"stream": True})])
def test_a_broken_sender_ends_its_own_request_only(
    engine: Engine, task: str, options: dict[str, bool], fails: tuple[str, ...]
) -> None:
    terminations: list[bool] = []
    scheduler = RequestScheduler(engine, max_waiting=8, terminate=lambda: terminations.append(True))
    broken, others = BrokenSender(*fails), [RecordingSender(), RecordingSender()]
    scheduler.submit([request(task, others[0]), request(task, broken, **options), request(task, others[1])])
    later = RecordingSender()
    for sender in others:
        assert sender.done.wait(WAIT_S)
    submit_and_wait(scheduler, request(task, later))
    scheduler.close()
    assert broken.called.is_set()
    message = f"the response could not be sent: RuntimeError: {fails[0]}: no shared memory"
    assert broken.error == (None if "fail" in fails else wire.WireError(wire.INTERNAL, message))
    for sender in (*others, later):
        assert sender.error is None
        assert len(sender.chunks) == 1
    assert terminations == []


def test_a_sender_that_cannot_send_errors_does_not_affect_others(engine: Engine) -> None:
    failing = FailingEngine(engine)
    failing.generate = lambda requests, sampling: failing.classify(requests)  # type: ignore[method-assign]
    scheduler = RequestScheduler(failing, max_waiting=8)  # type: ignore[arg-type]
    for task in ("urgency", "reply", "unknown"):
        silent, other = BrokenSender("fail"), RecordingSender()
        scheduler.submit([request(task, silent), request(task, other)])
        assert other.done.wait(WAIT_S)
        assert other.error is not None
    scheduler.close()


def test_an_engine_thread_that_fails_terminates_the_process(engine: Engine) -> None:
    def end_thread(requests: object, sampling: object) -> object:
        raise SystemExit

    failing, terminated = FailingEngine(engine), threading.Event()
    failing.generate = end_thread  # type: ignore[method-assign,assignment]
    scheduler = RequestScheduler(failing, max_waiting=8, terminate=terminated.set)  # type: ignore[arg-type]
    scheduler.submit([request("reply", RecordingSender())])
    assert terminated.wait(WAIT_S)
    scheduler.close()
