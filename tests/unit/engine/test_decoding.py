from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import pytest
import torch
from torch import nn

from multitask_serving.engine.errors import InvalidSampling
from multitask_serving.engine.generation.decoding import GenerationInput, Step, generate_rows
from multitask_serving.engine.generation.sampling import Sampling, sample_next_token
from support.engine_builders import llama, tokenizer

TOK = tokenizer()
EOS = 2
DRAW = torch.Generator().manual_seed(4)


def prompt(length: int) -> list[int]:
    ids: list[int] = torch.randint(3, 420, (length,), generator=DRAW).tolist()
    return ids


def run(model: nn.Module, rows: Sequence[GenerationInput], **options: int) -> list[list[Step]]:
    """Each row's steps."""
    steps: list[list[Step]] = [[] for _ in rows]
    for step in chain.from_iterable(generate_rows(model, TOK, rows, **options)):
        assert not steps[step.row] or not steps[step.row][-1].finished
        steps[step.row].append(step)
    assert all(row[-1].finished for row in steps)
    return steps


def tokens(steps: Sequence[Step]) -> list[int]:
    return [step.token for step in steps]


def greedy_alone(model: nn.Module, ids: Sequence[int], count: int, eos: int = EOS) -> tuple[list[int], list[float]]:
    """Greedy decoding of one row by running the whole sequence again for each token, without any cache."""
    out: list[int] = []
    margins = []
    while len(out) < count and eos not in out:
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *out]])).logits[0, -1]
        best = torch.log_softmax(logits, -1).topk(2)
        out.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return out, margins


@pytest.mark.parametrize("lengths", [(1,), (7, 7, 7, 7, 7, 7, 7), (1, 40, 3, 22), (5, 5), (30, 1)])
def test_batched_decoding_with_a_cache_is_decoding_each_row_alone_without_one(lengths: tuple[int, ...]) -> None:
    model = llama()
    # An EOS that some rows meet and others do not, so that rows leave the batch at different times.
    rows = []
    for number, length in enumerate(lengths):
        ids = prompt(length)
        free, _ = greedy_alone(model, ids, 12, eos=-1)
        rows.append(GenerationInput(ids, eos=free[number + 1] if number % 2 else -1, max_new_tokens=12 - number))
    for row, steps in zip(rows, run(model, rows), strict=True):
        expected, margins = greedy_alone(model, row.input_ids, row.max_new_tokens, row.eos)
        assert tokens(steps) == expected
        assert [step.margin for step in steps] == pytest.approx(margins, abs=1e-3)
        assert steps[-1].finish_reason == ("eos" if expected[-1] == row.eos else "length")


def test_rows_cut_into_many_batches_give_the_same() -> None:
    model = llama()
    rows = [GenerationInput(prompt(1 + 3 * i), EOS, 8) for i in range(10)]
    assert [tokens(steps) for steps in run(model, rows, token_budget=40)] == [
        tokens(steps) for steps in run(model, rows)
    ]


def test_the_deltas_are_the_decoded_answer_without_eos() -> None:
    model = llama()
    rows = [GenerationInput(prompt(5 + i), EOS, 20) for i in range(6)]
    for steps in run(model, rows):
        text = TOK.decode([token for token in tokens(steps) if token != EOS])
        assert "".join(step.text_delta for step in steps) == text.rstrip("\ufffd")


def test_an_answer_ends_before_its_stop_string() -> None:
    model = llama()
    ids = prompt(9)
    free = "".join(step.text_delta for step in run(model, [GenerationInput(ids, EOS, 16)])[0])
    stop = free[5:8]
    steps = run(model, [GenerationInput(ids, EOS, 16, stop=(stop,)), GenerationInput(ids, EOS, 16)])
    assert "".join(step.text_delta for step in steps[0]) == free[: free.index(stop)]
    assert steps[0][-1].finish_reason == "stop"
    assert len(steps[0]) < len(steps[1])
    assert "".join(step.text_delta for step in steps[1]) == free


def test_a_generator_may_be_left_and_two_may_take_turns() -> None:
    model = llama()
    rows = [GenerationInput(prompt(4), EOS, 6), GenerationInput(prompt(9), EOS, 6)]
    alone = [list(generate_rows(model, TOK, [row])) for row in rows]
    first, second = (generate_rows(model, TOK, [row]) for row in rows)
    assert [next(first), next(second), next(first)] == [alone[0][0], alone[1][0], alone[0][1]]
    assert list(second) == alone[1][1:]
    assert not torch.is_inference_mode_enabled()


def test_a_seeded_row_gives_the_same_text_alone_and_in_any_batch() -> None:
    model = llama()
    warm = Sampling(temperature=1.5, top_p=0.95, seed=11)
    row = GenerationInput(prompt(6), EOS, 10, sampling=warm)
    others = [GenerationInput(prompt(3 + i), EOS, 10, sampling=Sampling(temperature=2.0, seed=i)) for i in range(5)]
    alone = tokens(run(model, [row])[0])
    assert tokens(run(model, [*others, row])[-1]) == alone
    assert tokens(run(model, [GenerationInput(row.input_ids, EOS, 10)])[0]) == greedy_alone(model, row.input_ids, 10)[0]
    different = {
        tuple(tokens(run(model, [GenerationInput(row.input_ids, EOS, 10, sampling=Sampling(1.5, seed=s))])[0]))
        for s in range(5)
    }
    assert len(different) > 1


def draw(logits: list[float], temperature: float, top_p: float, count: int = 4000) -> Counter[int]:
    uniform_samples = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    many = torch.tensor(logits).repeat(count, 1)
    columns = (torch.full((count,), value, dtype=torch.float64) for value in (temperature, top_p))
    return Counter(sample_next_token(many, *columns, uniform_samples)[0].tolist())


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().tolist()
    counts = draw(logits, 1.0, 1.0)
    for token, share in enumerate((0.1, 0.2, 0.3, 0.4)):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)
    # Temperature 0.5 squares the probabilities: .01 .04 .09 .16 of .30.
    assert draw(logits, 0.5, 1.0)[3] / 4000 == pytest.approx(0.16 / 0.30, abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(0.39, {3}), (0.41, {2, 3}), (0.69, {2, 3}), (0.71, {1, 2, 3}), (1.0, {0, 1, 2, 3}), (1e-9, {3})],
)
def test_only_the_nucleus_is_drawn_from(top_p: float, nucleus: set[int]) -> None:
    assert set(draw(torch.tensor([0.1, 0.2, 0.3, 0.4]).log().tolist(), 1.0, top_p)) == nucleus


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0], [0.0, 5.0, 4.9]])
    chosen, margins = sample_next_token(
        logits,
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        torch.tensor([1.0, 1.0], dtype=torch.float64),
        torch.tensor([0.0, 0.9], dtype=torch.float64),
    )
    assert chosen.tolist() == [1, 2]
    assert margins.tolist() == pytest.approx([4.0, 0.1], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must be from 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"stop": ("",)}, "a stop string is empty"),
    ],
)
def test_a_sampling_setting_out_of_range_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSampling, match=message):
        Sampling(**settings)  # type: ignore[arg-type]
