"""The scheduler, with a real engine and without Triton."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_serving.triton import wire
from multitask_serving.triton.requests import ResponseChunk, TaskRequest
from multitask_serving.triton.scheduler import PriorityLock, RequestScheduler
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
    scheduler = RequestScheduler(engine, max_waiting=2)
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


def test_too_many_waiting_texts_are_an_error(engine: Engine) -> None:
    scheduler = RequestScheduler(engine, max_waiting=2)
    senders = [RecordingSender() for _ in range(40)]
    with scheduler._engine_lock.acquire(high_priority=True):  # the model is busy
        scheduler.submit([request("reply", sender) for sender in senders])
    for sender in senders:
        assert sender.done.wait(WAIT_S)
    scheduler.close()
    codes = {sender.error.code if sender.error else "answered" for sender in senders}
    assert codes == {wire.OVERLOADED, "answered"}
    assert 2 <= sum(sender.error is None for sender in senders) <= 12


def test_closing_fails_running_generations(engine: Engine) -> None:
    scheduler, sender = RequestScheduler(engine, max_waiting=2), RecordingSender()
    scheduler.submit([request("essay", sender, stream=True)])
    assert sender.first.wait(WAIT_S)
    scheduler.close()
    assert sender.error == wire.WireError(wire.INTERNAL, "the server is shutting down; try again in a moment")
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
    if task == "reply" or "send" in fails:  # cancellation is not checked for a classification
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


def test_a_generation_thread_that_fails_terminates_the_process(engine: Engine) -> None:
    def end_thread(requests: object, sampling: object) -> object:
        raise SystemExit

    failing, terminated = FailingEngine(engine), threading.Event()
    failing.generate = end_thread  # type: ignore[method-assign,assignment]
    scheduler = RequestScheduler(failing, max_waiting=8, terminate=terminated.set)  # type: ignore[arg-type]
    scheduler.submit([request("reply", RecordingSender())])
    assert terminated.wait(WAIT_S)
    scheduler.close()


def test_high_priority_waiters_go_first() -> None:
    lock, order = PriorityLock(), []
    waiting = threading.Semaphore(0)

    def acquire(name: str, high_priority: bool) -> None:
        waiting.release()
        with lock.acquire(high_priority=high_priority):
            order.append(name)

    with lock.acquire(high_priority=False):
        threads = [threading.Thread(target=acquire, args=(name, name == "label")) for name in ("text", "label")]
        for thread in threads:
            thread.start()
        for _ in threads:
            waiting.acquire()
        with lock._condition:
            assert lock._condition.wait_for(
                lambda: lock._high_priority_waiters == 1 or lock._condition.wait(0.01), WAIT_S
            )
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["label", "text"]
