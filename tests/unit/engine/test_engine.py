from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from multitask_api.bundle import Bundle
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.errors import (
    EmptyPrompt,
    InvalidBundle,
    InvalidField,
    MissingField,
    UnknownTask,
    WrongTaskType,
)
from multitask_serving.engine.generation.sampling import Sampling
from multitask_serving.engine.model.loading import LoadedModel
from multitask_serving.engine.types import Request
from support.engine_builders import TEXT, llama, random_adapter, served_task, tokenizer, write_bundle

WORDS = " ".join(TEXT).split()
DRAW = random.Random(8)
COLOURS = [f"{shade} {colour}" for shade in ("dark", "light", "pale") for colour in ("red", "blue", "blue green")]


def text(words: int) -> str:
    return " ".join(DRAW.choice(WORDS) for _ in range(words))


TASKS = [
    served_task("plain", "{text}\nUrgency:", labels=["low", "medium", "high"]),
    served_task("one", "Is it about {topic}? {text}", labels=["yes", "no"], adapter="r1"),
    served_task("two", "{text} :", labels=["a", "ab", "abc", "b"], adapter="r3"),
    served_task("colours", "Colour of {text}:\n", labels=COLOURS, adapter="r4"),
    served_task("four", "{text}", labels=["1", "2", "3", "4", "5"], adapter="r8"),
    served_task("reply", "Answer {text}:", adapter="r3", max_new_tokens=10),
    served_task("line", "Answer {text}\n", adapter="r8", max_new_tokens=14, stop=["e", "##"]),
    served_task("other-label", "{text} =", labels=["x", "y"], model="other"),
    served_task("other-reply", "{text} =", model="other", max_new_tokens=6),
]
CLASSIFICATION = [task.name for task in TASKS if task.labels]
GENERATION = [task.name for task in TASKS if not task.labels]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    base = llama(0, heads=2, kv_heads=1)
    adapters = {f"r{rank}": random_adapter(base, rank, rank) for rank in (1, 3, 4, 8)}
    write_bundle(path, TASKS, models={"base": base, "other": llama(1, hidden=16)}, adapters={"base": adapters})
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder)


def request(task: str, words: int | None = None) -> Request:
    return Request(task, {"text": text(int(80 * DRAW.random() ** 2) if words is None else words), "topic": text(2)})


def test_500_random_mixed_batches_give_each_row_the_answer_it_gets_alone(engine: Engine) -> None:
    pool = [request(DRAW.choice(CLASSIFICATION)) for _ in range(250)]
    alone = [engine.classify([one])[0] for one in pool]
    worst = 0.0
    for _ in range(500):
        rows = DRAW.choices(range(len(pool)), k=DRAW.randint(1, 32))
        for row, answer in zip(rows, engine.classify([pool[row] for row in rows]), strict=True):
            assert answer.label == alone[row].label
            gaps = [abs(answer.log_probs[label] - log_prob) for label, log_prob in alone[row].log_probs.items()]
            worst = max(worst, *gaps)
    assert worst < 1e-4


def test_many_rows_in_one_call_are_in_the_requests_order(engine: Engine) -> None:
    requests = [request(DRAW.choice(CLASSIFICATION)) for _ in range(500)]
    together = engine.classify(requests)
    for at in range(0, 500, 25):
        assert together[at].log_probs == pytest.approx(engine.classify([requests[at]])[0].log_probs, abs=1e-4)


def test_scores_are_the_softmax_and_the_margin_is_the_gap_of_the_best_two(engine: Engine) -> None:
    answer = engine.classify([request("colours", 5)])[0]
    assert list(answer.scores) == COLOURS
    assert sum(answer.scores.values()) == pytest.approx(1)
    first, second = sorted(answer.log_probs.values(), reverse=True)[:2]
    assert answer.margin == pytest.approx(first - second)
    assert answer.log_probs[answer.label] == first
    assert math.log(answer.scores[answer.label] / answer.scores[COLOURS[0]]) == pytest.approx(
        first - answer.log_probs[COLOURS[0]], abs=1e-6
    )


def test_adapters_change_the_answer(engine: Engine, folder: Path) -> None:
    bare = [task.model_copy(update={"adapter": None}) for task in TASKS]
    base = Engine(engine.bundle.model_copy(update={"tasks": tuple(bare)}), engine._models)
    for name in ("one", "two", "colours", "four"):
        one = request(name, 6)
        gaps = np.subtract(
            list(engine.classify([one])[0].log_probs.values()), list(base.classify([one])[0].log_probs.values())
        )
        assert np.abs(gaps).max() > 0.1


def test_a_field_that_is_too_long_is_cut_and_reported(engine: Engine) -> None:
    short, long = engine.classify([request("plain", 4), request("plain", 900)])
    assert not short.truncated
    assert long.truncated


def test_mixed_generation_is_the_generation_of_each_row_alone(engine: Engine) -> None:
    requests = [request(DRAW.choice(GENERATION)) for _ in range(24)]
    together = engine.generate_all(requests)
    assert [one.text for one in together] == [engine.generate_all([one])[0].text for one in requests]
    for one, answer in zip(requests, together, strict=True):
        assert len(answer.tokens) == len(answer.margins) <= engine.task(one.task).generation.max_new_tokens
        assert answer.finish_reason in ("eos", "stop", "length")
        assert one.task != "line" or "e" not in answer.text


def test_texts_of_several_models_advance_in_turns(engine: Engine) -> None:
    fields = {"text": "the card was charged twice"}
    tasks = ("reply", "other-reply", "reply")  # the first and the last share a model
    requests = [Request(task, fields) for task in tasks]
    steps: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for number, step in enumerate(engine.generate(requests)):
        steps[step.row].append(number)
    shortest = min(map(len, steps.values()))
    assert shortest > 1
    order = sorted((number, row) for row, numbers in steps.items() for number in numbers[:shortest])
    assert [row for _, row in order] == [0, 2, 1] * shortest
    alone = [engine.generate_all([one])[0].text for one in requests]
    assert [answer.text for answer in engine.generate_all(requests)] == alone


def test_what_is_streamed_joined_is_the_whole_answer(engine: Engine) -> None:
    requests = [request(name, 5) for name in GENERATION * 3]
    joined = [""] * len(requests)
    for step in engine.generate(requests):
        joined[step.row] += step.text_delta
    assert joined == [answer.text for answer in engine.generate_all(requests)]


def test_each_request_may_have_its_own_sampling_within_the_tasks_limits(engine: Engine) -> None:
    one = request("reply", 5)
    greedy, short, warm, warm_again, long = engine.generate_all(
        [one] * 5,
        sampling=[
            Sampling(),
            Sampling(max_new_tokens=2),
            Sampling(temperature=3.0, seed=1),
            Sampling(temperature=3.0, seed=1),
            Sampling(max_new_tokens=400),
        ],
    )
    assert len(short.tokens) == 2
    assert greedy.tokens[:2] == short.tokens
    assert warm.tokens == warm_again.tokens != greedy.tokens
    assert long == greedy
    stopped = engine.generate_all([one], sampling=Sampling(stop=(greedy.text[3:5],)))[0]
    assert stopped.text == greedy.text[: greedy.text.index(greedy.text[3:5])]


def test_a_row_is_cut_so_that_prompt_and_answer_fit_the_maximum_length(folder: Path) -> None:
    task = served_task("tight", "{text}=", max_length=20, max_new_tokens=12)
    loaded = LoadedModel.of(llama(), tokenizer())
    model = Bundle(revision="r", models=(), tasks=(task,))
    lengths: list[int] = []
    loaded.model.model.register_forward_hook(
        lambda _m, _a, options, _o: lengths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    Engine.from_parts(model, {"base": loaded}).generate_all([Request("tight", {"text": text(50)})])
    assert lengths[0] == 20 - 12 - 1


@pytest.mark.parametrize(
    ("task", "fields", "error", "message"),
    [
        ("colour", {"text": "x"}, UnknownTask, "no task 'colour' is served here; did you mean colours or four?"),
        ("zzzz", {"text": "x"}, UnknownTask, "no task 'zzzz' is served here; served: colours, four, line"),
        (
            "one",
            {"text": "x"},
            MissingField,
            "field 'topic' is missing: the prompt uses topic, text; the request gives text",
        ),
        ("plain", {}, MissingField, "the request gives no field"),
        ("plain", {"text": None}, MissingField, "field 'text' is missing"),
        ("plain", {"text": 1.5}, InvalidField, "field 'text' is of type float"),
        ("reply", {"text": "x"}, WrongTaskType, "task 'reply' is of type Generation; call generate instead"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(engine: Engine, task: str, fields, error: type, message: str) -> None:
    wrong = Request(task, fields)
    with pytest.raises(error) as raised:
        engine.classify([request("plain", 3), wrong])
    assert message in str(raised.value)
    if error is not WrongTaskType:
        with pytest.raises(error):
            engine.check(wrong)


def test_generate_refuses_before_it_streams(engine: Engine) -> None:
    with pytest.raises(WrongTaskType, match="call classify instead"):
        engine.generate([request("plain", 3)])
    with pytest.raises(MissingField):
        engine.generate([Request("reply", {})])


def test_an_empty_prompt_is_refused_by_check_and_classify() -> None:
    task = served_task("bare", "{text}", labels=["x", "y"]).model_copy(update={"bos": ()})
    bare = Engine.from_parts(
        Bundle(revision="r", models=(), tasks=(task,)), {"base": LoadedModel.of(llama(), tokenizer())}
    )
    for call in (bare.check, lambda one: bare.classify([one])):
        with pytest.raises(EmptyPrompt):
            call(Request("bare", {"text": ""}))
    assert bare.check(Request("bare", {"text": "x"})).name == "bare"


def test_no_request_no_answer(engine: Engine) -> None:
    assert engine.classify([]) == []
    assert engine.generate_all([]) == []


def test_only_what_the_tasks_need_is_loaded(folder: Path, engine: Engine) -> None:
    small = Engine.load(folder, tasks=["one", "plain"])
    assert small.tasks == ("plain", "one")
    assert {name: set(model.adapter_numbers) for name, model in small._models.items()} == {"base": {None, "r1"}}
    one = request("one", 6)
    assert small.classify([one])[0].log_probs == pytest.approx(engine.classify([one])[0].log_probs, abs=1e-4)
    with pytest.raises(UnknownTask, match="did you mean one"):
        Engine.load(folder, tasks=["ones"])


def test_a_model_with_broken_weights_does_not_answer() -> None:
    model = llama()
    model.model.norm.weight.data.fill_(math.nan)
    broken = Engine.from_parts(
        Bundle(revision="r", models=(), tasks=(TASKS[0],)), {"base": LoadedModel.of(model, tokenizer())}
    )
    with pytest.raises(InvalidBundle, match="no finite score"):
        broken.classify([request("plain", 3)])


def test_a_bundle_that_cannot_be_served_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match=r"bundle.json cannot be read: No such file or directory"):
        Engine.load(tmp_path)
    described = json.loads((folder / "bundle.json").read_text())
    for change, message in [
        ({"schema": "multitask.dev/bundle/v9"}, "not a bundle of this version"),
        ({"models": []}, "task 'plain' needs model 'base', which the bundle does not have"),
        ({"models": [described["models"][1]]}, "which the bundle does not have"),
        ({"models": [{**described["models"][0], "path": "models/none"}]}, "the model cannot be read"),
        ({"models": [{**described["models"][0], "path": "../x"}]}, "is outside the bundle"),
        (
            {"tasks": [{**described["tasks"][1], "adapter": "none"}]},
            "model 'base' with adapter 'none', which",
        ),
        ({"tasks": [{**described["tasks"][5], "generation": None}]}, "needs generation settings"),
    ]:
        (tmp_path / "bundle.json").write_text(json.dumps(described | change))
        for part in ("models", "adapters"):
            (tmp_path / part).unlink(missing_ok=True)
            (tmp_path / part).symlink_to(folder / part)
        with pytest.raises(InvalidBundle, match=message):
            Engine.load(tmp_path)
