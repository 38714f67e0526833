"""The backend's answers, with a real engine and without Triton."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from multitask_serving.engine.answers import Request
from multitask_serving.engine.engine import Engine
from multitask_serving.triton import wire
from multitask_serving.triton.answering import Answering, Turns
from multitask_serving.triton.callers import Call, Part
from support.engine_builders import llama, served, write_bundle

WAIT_S = 60


class Caller:
    """Keeps what it is sent. ``leaves_after`` parts, it is gone."""

    def __init__(self, leaves_after: int | None = None) -> None:
        self.parts: list[Part] = []
        self.error: wire.WireError | None = None
        self.first, self.done = threading.Event(), threading.Event()
        self.ends = 0
        self._leaves_after = leaves_after

    def send(self, part: Part, *, final: bool) -> None:
        self.parts.append(part)
        self.first.set()
        if final:
            self._end()

    def fail(self, error: wire.WireError) -> None:
        self.error = error
        self._end()

    def is_cancelled(self) -> bool:
        return self._leaves_after is not None and len(self.parts) >= self._leaves_after

    def _end(self) -> None:
        self.ends += 1
        self.done.set()

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder: Path = tmp_path_factory.mktemp("bundle")
    tasks = [
        served("urgency", "Urgency of {text}:", labels=["low", "high"]),
        served("reply", "Reply to {text}:", max_new_tokens=8),
        served("essay", "Reply to {text}:", max_new_tokens=500, max_length=1000),
    ]
    model = llama(hidden=16, layers=1)
    with torch.no_grad():
        model.lm_head.weight[2] = 0  # the end is never likeliest: texts are as long as they may be
    write_bundle(folder, tasks, models={"base": model})
    return Engine.load(folder)


@pytest.fixture
def answering(engine: Engine) -> Iterator[Answering]:
    made = Answering(engine, max_waiting=2)
    yield made
    made.close()


def call(task: str, caller: Caller, text: str | None = "x", **options: object) -> Call:
    fields = {} if text is None else {"text": text}
    return Call(wire.Inputs(task, fields, wire.Options(**options)), caller)  # type: ignore[arg-type]


def ask(answering: Answering, *calls: Call) -> None:
    answering.answer(calls)
    for one in calls:
        assert one.sender.done.wait(WAIT_S)  # type: ignore[attr-defined]
        assert one.sender.ends == 1  # type: ignore[attr-defined]


def test_a_mixed_batch_gets_each_its_own(answering: Answering, engine: Engine) -> None:
    callers = [Caller() for _ in range(6)]
    label, text, streamed, unknown, missing, sampled = callers
    ask(
        answering,
        call("urgency", label),
        call("reply", text),
        call("reply", streamed, stream=True),
        call("urgncy", unknown),
        call("urgency", missing, None),
        call("urgency", sampled, sampling={"seed": 1}),
    )
    [expected] = engine.classify([Request("urgency", {"text": "x"})])
    assert [(part.text, part.scores) for part in label.parts] == [(expected.label, pytest.approx(expected.scores))]
    [whole] = engine.generate_all([Request("reply", {"text": "x"})])
    assert [(part.text, part.finish_reason) for part in text.parts] == [(whole.text, whole.finish_reason)]
    assert streamed.text == whole.text
    assert len(streamed.parts) > 1
    assert [caller.error and (caller.error.code, caller.error.field) for caller in callers] == [
        None,
        None,
        None,
        (wire.UNKNOWN_TASK, ""),
        (wire.MISSING_FIELD, "fields.text"),
        (wire.INVALID_REQUEST, "sampling"),
    ]


def test_bad_sampling_is_the_callers_fault(answering: Answering) -> None:
    caller = Caller()
    ask(answering, call("reply", caller, sampling={"temperature": -1}))
    assert caller.error == wire.WireError(
        wire.INVALID_REQUEST, "temperature is -1; it must be from 0 (greedy) to 10", "sampling"
    )


def test_labels_and_short_texts_overtake_a_long_one(answering: Answering) -> None:
    essay, label, reply = Caller(), Caller(), Caller()
    answering.answer([call("essay", essay, stream=True)])
    assert essay.first.wait(WAIT_S)
    ask(answering, call("urgency", label), call("reply", reply))
    assert not essay.done.is_set()


def test_a_caller_who_leaves_is_not_written_for(answering: Answering) -> None:
    leaver, stayer = Caller(leaves_after=2), Caller()
    ask(answering, call("essay", leaver, stream=True), call("reply", stayer))
    assert leaver.error is not None
    assert leaver.error.code == wire.CANCELLED
    assert len(leaver.parts) == 2
    assert stayer.parts[-1].finish_reason


def test_too_many_waiting_texts_are_an_error(engine: Engine) -> None:
    answering = Answering(engine, max_waiting=2)
    callers = [Caller() for _ in range(40)]
    with answering._turns.take(urgent=True):  # the model is busy: nothing moves
        answering.answer([call("reply", caller) for caller in callers])
    for caller in callers:
        assert caller.done.wait(WAIT_S)
    answering.close()
    codes = {caller.error.code if caller.error else "answered" for caller in callers}
    assert codes == {wire.OVERLOADED, "answered"}
    assert 2 <= sum(caller.error is None for caller in callers) <= 12


def test_closing_ends_what_is_under_way(engine: Engine) -> None:
    answering, caller = Answering(engine, max_waiting=2), Caller()
    answering.answer([call("essay", caller, stream=True)])
    assert caller.first.wait(WAIT_S)
    answering.close()
    assert caller.error == wire.WireError(wire.INTERNAL, "the server is shutting down; try again in a moment")
    assert caller.ends == 1


class _Broken:
    """An engine whose model fails."""

    def __init__(self, engine: Engine) -> None:
        self.check = engine.check

    def classify(self, requests: object) -> object:
        raise RuntimeError("out of memory")

    generate = classify

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


def test_a_failing_model_is_an_error_for_each_caller_and_the_server_goes_on(engine: Engine) -> None:
    broken = _Broken(engine)
    broken.generate = lambda requests, sampling: broken.classify(requests)  # type: ignore[method-assign]
    answering = Answering(broken, max_waiting=8)  # type: ignore[arg-type]
    for _ in range(2):
        callers = [Caller() for _ in range(4)]
        ask(answering, *[call(task, caller) for task, caller in zip(["urgency", "reply"] * 2, callers, strict=True)])
        for caller in callers:
            assert caller.error == wire.WireError(wire.INTERNAL, "the model failed: RuntimeError: out of memory")
    answering.close()


class Torn(Caller):
    """A caller whose way back raises where ``fails`` says, as Triton's does when its shared memory is full."""

    def __init__(self, *fails: str) -> None:
        super().__init__()
        self._fails = fails
        self.tried = threading.Event()

    def _pull(self, name: str) -> None:
        if name in self._fails:
            self.tried.set()
            raise RuntimeError(f"{name}: no shared memory")

    def send(self, part: Part, *, final: bool) -> None:
        self._pull("send")
        super().send(part, final=final)

    def fail(self, error: wire.WireError) -> None:
        self._pull("fail")
        super().fail(error)

    def is_cancelled(self) -> bool:
        self._pull("is_cancelled")
        return super().is_cancelled()


@pytest.mark.parametrize(
    "fails", [("send",), ("is_cancelled",), ("send", "fail"), ("is_cancelled", "fail")], ids=" and ".join
)
@pytest.mark.parametrize(("task", "options"), [("urgency", {}), ("reply", {}), ("reply", {"stream": True})])
def test_a_broken_way_back_ends_its_own_call_alone(
    engine: Engine, task: str, options: dict[str, bool], fails: tuple[str, ...]
) -> None:
    deaths: list[bool] = []
    answering = Answering(engine, max_waiting=8, die=lambda: deaths.append(True))
    torn, others = Torn(*fails), [Caller(), Caller()]
    answering.answer([call(task, others[0]), call(task, torn, **options), call(task, others[1])])
    later = Caller()
    for caller in others:
        assert caller.done.wait(WAIT_S)
    ask(answering, call(task, later))
    answering.close()
    if task == "reply" or "send" in fails:  # nobody asks whether the caller of a label is still there
        assert torn.tried.is_set()
        message = f"the answer could not be sent: RuntimeError: {fails[0]}: no shared memory"
        assert torn.error == (None if "fail" in fails else wire.WireError(wire.INTERNAL, message))
    for caller in (*others, later):
        assert caller.error is None
        assert len(caller.parts) == 1
    assert deaths == []


def test_callers_who_cannot_hear_of_an_error_do_not_harm_those_who_can(engine: Engine) -> None:
    broken = _Broken(engine)
    broken.generate = lambda requests, sampling: broken.classify(requests)  # type: ignore[method-assign]
    answering = Answering(broken, max_waiting=8)  # type: ignore[arg-type]
    for task in ("urgency", "reply", "unknown"):
        deaf, other = Torn("fail"), Caller()
        answering.answer([call(task, deaf), call(task, other)])
        assert other.done.wait(WAIT_S)
        assert other.error is not None
    answering.close()


def test_a_generation_thread_that_ends_by_itself_is_not_silent(engine: Engine) -> None:
    def leave(requests: object, sampling: object) -> object:
        raise SystemExit

    broken, dead = _Broken(engine), threading.Event()
    broken.generate = leave  # type: ignore[method-assign,assignment]
    answering = Answering(broken, max_waiting=8, die=dead.set)  # type: ignore[arg-type]
    answering.answer([call("reply", Caller())])
    assert dead.wait(WAIT_S)
    answering.close()


def test_the_urgent_go_first() -> None:
    turns, order = Turns(), []
    waiting = threading.Semaphore(0)

    def take(name: str, urgent: bool) -> None:
        waiting.release()
        with turns.take(urgent=urgent):
            order.append(name)

    with turns.take(urgent=False):
        threads = [threading.Thread(target=take, args=(name, name == "label")) for name in ("text", "label")]
        for thread in threads:
            thread.start()
        for _ in threads:
            waiting.acquire()
        with turns._changed:
            assert turns._changed.wait_for(lambda: turns._urgent == 1 or turns._changed.wait(0.01), WAIT_S)
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["label", "text"]
