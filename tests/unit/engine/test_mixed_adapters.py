"""Batches in which rows use different adapters: every layout of the rows gives each row the answer it gets alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from multitask_api.bundle import Bundle, ForwardPath, LabelIds
from multitask_serving.engine.classification.scoring import label_log_probs
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.generation.decoding import GenerationInput, generate_rows
from multitask_serving.engine.model import active_adapters
from multitask_serving.engine.model.active_adapters import ActiveAdapters, BatchRows, PaddedRows
from multitask_serving.engine.model.adapters import add_to_weights, attach_adapters
from multitask_serving.engine.model.loading import LoadedModel
from multitask_serving.engine.model.lora import RowLoraExperts, RowLoraLinear
from multitask_serving.engine.types import Request
from support.base_families import family
from support.engine_builders import llama, random_adapter, served_task, tokenizer

CPU = torch.device("cpu")
RANKS = (1, 3, 4, 8, 16)
LABELS = ((5,), (6, 7), (6, 8), (6, 8, 9), (10, 11, 12))
TRIE = LabelTrie.build([LabelIds(label=str(ids), ids=ids) for ids in LABELS], eos=2)
LAYOUTS = {"by run": 0, "padded": 1 << 60, "by cost": active_adapters.RUN_COSTS["cpu"]}
"""Layout → what a run costs."""

few = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.lists(st.integers(0, len(RANKS)), min_size=1, max_size=32)


@pytest.fixture(params=LAYOUTS)
def layout(request, monkeypatch) -> str:
    monkeypatch.setitem(active_adapters.RUN_COSTS, "cpu", LAYOUTS[request.param])
    return request.param


@cache
def adapters() -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    return [random_adapter(llama(), rank, rank) for rank in RANKS]


@cache
def loaded() -> LoadedModel:
    model = llama()
    active = ActiveAdapters(CPU)
    attach_adapters(model, adapters(), active)
    return LoadedModel(model, tokenizer(), active, {None: 0} | {f"r{rank}": n for n, rank in enumerate(RANKS, 1)})


@cache
def of_peft(number: int) -> torch.nn.Module:
    """The base with one adapter as PEFT runs it."""
    if not number:
        return llama()
    targets = ["q_proj", "v_proj", "down_proj"]
    rank = RANKS[number - 1]
    model = get_peft_model(llama(), LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    with torch.no_grad():
        for path, (a, b) in adapters()[number - 1].items():
            layer = model.base_model.model.get_submodule(path)
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
    return model.eval()


def random_prompts(seed: int, rows: int) -> list[list[int]]:
    """Of 1 to 200 tokens."""
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 420, draw.integers(1, 201)).tolist() for _ in range(rows)]


@few
@given(numbers, st.integers(1, 7), st.sampled_from([(1, 1), (5, 9), (32, 7)]), st.booleans(), st.integers(0, 99))
def test_a_layer_adds_to_each_row_the_delta_of_its_adapter(layout, rows, tokens, shape, joined, seed):
    torch.manual_seed(seed)
    base = torch.nn.Linear(*shape, bias=seed % 2 == 0)
    stack = torch.randn(len(RANKS) + 1, 3, shape[0]), torch.randn(len(RANKS) + 1, shape[1], 3)
    active = ActiveAdapters(CPU)
    layer = RowLoraLinear(base, *stack, active)
    x = torch.randn(len(rows), tokens, shape[0])
    with torch.inference_mode():
        deltas = [x[row] @ stack[0][number].T @ stack[1][number].T * (number > 0) for row, number in enumerate(rows)]
        expected = base(x) + torch.stack(deltas)
        with active.use(rows):
            actual = layer(x.reshape(-1, shape[0]) if joined else x)
    torch.testing.assert_close(actual.reshape(expected.shape), expected, atol=1e-4, rtol=1e-4)


@few
@given(numbers, st.integers(0, 10_000))
def test_labels_score_as_with_peft_one_row_at_a_time(layout, rows, seed):
    prompts = random_prompts(seed, len(rows))
    model = loaded()
    actual = label_log_probs(
        model.model,
        prompts,
        [TRIE] * len(rows),
        adapter_context=lambda batch: model.active_adapters.use([rows[row] for row in batch]),
    )
    for prompt, number, scores in zip(prompts, rows, actual, strict=True):
        (expected,) = label_log_probs(of_peft(number), [prompt], [TRIE])
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        assert scores.argmax() == expected.argmax()


@few
@given(numbers, st.integers(0, 10_000))
def test_cached_decoding_gives_each_row_the_tokens_it_gets_alone(layout, rows, seed):
    inputs = [
        GenerationInput(prompt, eos=2, max_new_tokens=2 + index % 5)
        for index, prompt in enumerate(random_prompts(seed, len(rows)))
    ]

    def tokens(of_rows: list[int]) -> list[list[tuple[int, float]]]:
        model = loaded()
        answers: list[list[tuple[int, float]]] = [[] for _ in of_rows]
        for steps in generate_rows(
            model.model,
            model.tokenizer,
            [inputs[row] for row in of_rows],
            adapter_context=lambda batch: model.active_adapters.use([rows[of_rows[row]] for row in batch]),
        ):
            for step in steps:
                answers[step.row].append((step.token, step.margin))
        return answers

    for row, answer in enumerate(tokens(list(range(len(rows))))):
        (alone,) = tokens([row])
        assert [token for token, _ in answer] == [token for token, _ in alone]
        np.testing.assert_allclose([gap for _, gap in answer], [gap for _, gap in alone], atol=2e-4)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss", "qwen3-moe"])
def test_stacked_experts_take_the_adapter_of_each_row(layout, name):
    generator = torch.Generator().manual_seed(0)
    model = family(name)
    stacks = {
        f"{path}.{part}": weight
        for path, module in model.named_modules()
        for part, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3
    }
    transposed = {
        path: getattr(model.get_submodule(path.rpartition(".")[0]), "is_transposed", False) for path in stacks
    }
    deltas = []
    for rank in (1, 2, 4):
        deltas.append({})
        for path, weight in stacks.items():
            experts, out, inside = weight.shape
            out, inside = (inside, out) if transposed[path] else (out, inside)
            deltas[-1][path] = (
                torch.randn(experts, rank, inside, generator=generator) * 0.3,
                torch.randn(experts, out, rank, generator=generator) * 0.3,
            )
    merges = [family(name) for _ in range(4)]
    for merge, delta in zip(merges[1:], deltas, strict=True):
        add_to_weights(merge, delta)
    active = ActiveAdapters(CPU)
    attach_adapters(model, deltas, active)
    assert any(isinstance(module, RowLoraExperts) for module in model.modules())
    for rows in ([0, 0, 1, 3, 3], [3, 1, 0, 1, 3, 2], [2, 2], [0, 3]):
        ids = torch.randint(3, 420, (len(rows), len(rows)), generator=generator)
        with torch.inference_mode(), active.use(rows):
            actual = model(input_ids=ids, use_cache=False).logits
        for row, number in enumerate(rows):
            with torch.inference_mode():
                expected = merges[number](input_ids=ids[row : row + 1], use_cache=False).logits[0]
            torch.testing.assert_close(actual[row], expected, atol=1e-4, rtol=0)


class Reads(TorchDispatchMode):
    """Notes the operations that read storage of ``weights`` other than through a view or a matrix product."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.storages = {weight.untyped_storage().data_ptr() for weight in weights}
        self.copies: list[str] = []
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        ours = [each for each in args if isinstance(each, torch.Tensor)]
        if any(each.untyped_storage().data_ptr() in self.storages for each in ours):
            name = function.name()
            if name in ("aten::matmul", "aten::bmm", "aten::addmm_"):
                self.products += 1
            elif result.untyped_storage().data_ptr() not in self.storages:
                self.copies.append(name)
        return result


def test_no_weight_of_an_adapter_is_copied_whichever_rows_use_it(layout):
    model = loaded()
    layers = [layer for layer in model.model.modules() if isinstance(layer, RowLoraLinear)]
    ids = torch.randint(3, 420, (9, 4), generator=torch.Generator().manual_seed(0))
    reads = Reads([stack for layer in layers for stack in (layer.A, layer.B)])
    with model.active_adapters.use([0, 1, 1, 2, 3, 4, 5, 5, 5]), torch.inference_mode(), reads:
        model.model(input_ids=ids, use_cache=False)
    assert reads.copies == []
    each = 2 if layout == "padded" else 2 * 5
    assert layout == "by cost" or reads.products == each * len(layers)


@pytest.mark.parametrize("path", [ForwardPath(), ForwardPath(labels="PromptState"), ForwardPath(labels="Sequences")])
def test_the_engine_puts_rows_of_one_adapter_together(path, monkeypatch):
    seen: list[BatchRows] = []
    monkeypatch.setattr(
        BatchRows, "of", lambda rows, device, of=BatchRows.of: seen.append(of(rows, device)) or seen[-1]
    )
    names = [None, *(f"r{rank}" for rank in RANKS)]
    tasks = [served_task(f"label-{name}", "{text}:", labels=["a", "ab", "b"], adapter=name) for name in names]
    tasks += [served_task(f"text-{name}", "{text}:", adapter=name, max_new_tokens=4) for name in names]
    bundle = Bundle(revision="r", models=(), tasks=tuple(tasks))
    engine = Engine.from_parts(bundle, {"base": replace(loaded(), path=path)})
    fields = {"text": "the invoice"}
    engine.classify([Request(f"label-{names[row * 5 % 6]}", fields) for row in range(40)])
    engine.generate_all([Request(f"text-{names[row * 5 % 6]}", fields) for row in range(35)])
    mixed = [rows for rows in seen if len(set(rows.numbers)) > 1]
    assert len(mixed) >= 2, "both calls"
    for rows in mixed:
        assert len(rows.runs) == len(set(rows.numbers))
        assert list(rows.numbers) == sorted(rows.numbers)


def test_the_runs_of_a_batch():
    assert BatchRows.of([4, 4, 4], CPU).runs == ((0, 1, 4),)
    assert BatchRows.of([0, 2, 2, 7], CPU).runs == ((0, 1, 0), (1, 3, 2), (3, 4, 7))
    assert BatchRows.of([2, 7, 2], CPU).runs == ((0, 1, 2), (1, 2, 7), (2, 3, 2))


def test_padded_rows_have_a_slot_each_in_the_range_of_their_adapters():
    padded = PaddedRows.of([0, 2, 2, 5], CPU)
    assert padded is not None
    assert (padded.first_row, padded.numbers, padded.spare) == (1, slice(2, 6), 5)
    assert padded.slots.tolist() == [0, 1, 6]
    assert padded.rows.tolist() == [1, 2, 1, 1, 1, 1, 3, 1]
    assert PaddedRows.of([2, 0, 2], CPU) is None, "rows of one adapter are apart"
    assert PaddedRows.of([0, 0], CPU) is None


def test_many_short_runs_are_padded_and_long_or_uneven_ones_are_not():
    one_each = BatchRows.of(range(1, 101), CPU)
    assert one_each.padded_for(1, 8, 192) is one_each.padded
    assert one_each.padded_for(200, 8, 192) is None, "copying the inputs costs more than the calls"
    uneven = BatchRows.of([1] * 50 + list(range(2, 52)), CPU)
    assert uneven.padded_for(1, 8, 192) is None, "49 empty slots for each of 50 adapters"
    far_apart = BatchRows.of([1, 100], CPU)
    assert far_apart.padded_for(1, 8, 192) is None, "the weights of 98 adapters in between"
