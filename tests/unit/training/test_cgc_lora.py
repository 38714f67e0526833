"""The layers of CGC-LoRA: the equation, the mistakes that implementations make, and use as a method of PEFT."""

from __future__ import annotations

import pytest
import torch

from multitask_trainer.tuning.cgc_lora import CgcLoraConfig, CgcLoraLinear, layer, model
from multitask_trainer.tuning.cgc_lora.experts import ExpertLayout, gate_weights, spread
from multitask_trainer.tuning.cgc_lora.selection import SelectedTasks
from support.cgc_fixtures import (
    TASKS,
    WIDTH,
    adapted,
    assert_budget,
    assert_equation,
    assert_merged,
    close,
    config,
    token_ids,
    trained,
    tuner,
)
from support.training_fixtures import small_decoder

MIXED = (2, 0, 1, 1, 2)


@pytest.mark.parametrize("gate", ["Task", "Uniform"])
@pytest.mark.parametrize("tokens", [1, 4, len(MIXED)])
def test_a_layer_computes_the_equation_also_where_rows_and_tokens_are_of_the_same_number(gate, tokens):
    assert_equation(trained(gate=gate), MIXED, tokens)


def test_merged_weights_give_each_task_what_its_rows_had():
    assert_merged(trained())


def test_there_are_as_many_trained_weights_as_with_lora():
    assert_budget(adapted())


# -- mistakes of implementations, planted ------------------------------------------------------------------------------


def test_every_expert_with_the_whole_rank_is_noticed(monkeypatch):
    whole = property(lambda self: ExpertLayout(len(self.tasks), self.common_experts, self.specific_experts, self.r))
    monkeypatch.setattr(CgcLoraConfig, "layout", whole)
    with pytest.raises(AssertionError):
        assert_budget(adapted())


def test_a_scaling_by_the_rank_of_an_expert_is_noticed(monkeypatch):
    monkeypatch.setattr(CgcLoraConfig, "scaling", property(lambda self: self.lora_alpha / self.expert_rank))
    with pytest.raises(AssertionError, match="differ"):
        assert_equation(trained(), MIXED, 4)


def all_experts(weights, layout):
    """The experts of other tasks take part."""
    placed = torch.nn.functional.one_hot(layout.gates(weights.device), layout.per_task).T.to(weights)
    return weights @ placed


def one_softmax_each(embedding, gates):
    """Common and specific experts each share a whole."""
    weights = gate_weights(embedding, gates)
    half = weights.shape[-1] // 2
    return torch.cat([part / part.sum(-1, keepdim=True) for part in (weights[..., :half], weights[..., half:])], -1)


@pytest.mark.parametrize(("name", "mistake"), [("spread", all_experts), ("gate_weights", one_softmax_each)])
def test_experts_of_other_tasks_and_a_softmax_in_two_parts_are_noticed(name, mistake, monkeypatch):
    trained_model = trained()
    monkeypatch.setattr(model, name, mistake)
    with pytest.raises(AssertionError, match="differ"):
        assert_equation(trained_model, MIXED, 4)


def by_position(selected, adapter, number, down):
    """The weights of row i are given to token i of every row."""
    return down * selected.weights[adapter][number]


def by_first_row(selected, adapter, number, down):
    return down * selected.weights[adapter][number][0]


@pytest.mark.parametrize("mistake", [by_position, by_first_row])
def test_a_gate_that_is_broadcast_wrong_is_noticed(mistake, monkeypatch):
    trained_model = trained()
    monkeypatch.setattr(SelectedTasks, "apply", mistake)
    with pytest.raises(AssertionError, match="differ"):
        assert_equation(trained_model, MIXED, len(MIXED))


def uniform(a, b, weights, layout, task):
    return right_collapse(a, b, torch.full_like(weights, 1 / len(weights)), layout, task)


def other_task(a, b, weights, layout, task):
    return right_collapse(a, b, weights, layout, (task + 1) % layout.tasks)


def in_half(a, b, weights, layout, task):
    return tuple(factor.half().float() for factor in right_collapse(a, b, weights, layout, task))


right_collapse = layer.collapse


@pytest.mark.parametrize("mistake", [uniform, other_task, in_half])
def test_a_merge_with_a_wrong_gate_other_experts_or_in_fp16_is_noticed(mistake, monkeypatch):
    trained_model = trained()
    monkeypatch.setattr(layer, "collapse", mistake)
    with pytest.raises(AssertionError, match="differ"):
        assert_merged(trained_model)


def test_a_merge_without_its_scaling_is_noticed():
    trained_model = trained()
    for each in tuner(trained_model).expert_layers("default"):
        each.scaling["default"] = 1.0
    with pytest.raises(AssertionError, match="differ"):
        assert_merged(trained_model)


def test_a_merge_twice_is_refused_and_would_be_noticed(monkeypatch):
    once = trained()
    with once.select_tasks("first"):
        once.merge_adapter()
        merged = [value.clone() for value in once.parameters()]
        with pytest.warns(UserWarning, match="already merged"):
            once.merge_adapter()
    assert all(torch.equal(before, after) for before, after in zip(merged, once.parameters(), strict=True))
    right = CgcLoraLinear.get_delta_weight
    monkeypatch.setattr(CgcLoraLinear, "get_delta_weight", lambda self, *given: 2 * right(self, *given))
    with pytest.raises(AssertionError, match="differ"):
        assert_merged(trained())


# -- the gate ----------------------------------------------------------------------------------------------------------


def test_the_gates_gradient_agrees_with_finite_differences():
    layout = ExpertLayout(tasks=3, common=2, specific=1, rank=2)
    generator = torch.Generator().manual_seed(2)
    embedding = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    gates = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e, w: spread(gate_weights(e, w), layout), (embedding, gates))


def test_the_whole_layers_gradient_agrees_with_finite_differences():
    whole = trained().double()
    one = tuner(whole).expert_layers("default")[0]
    embedding = tuner(whole).cgc_lora_task_embedding["default"]
    inputs = (one.cgc_lora_A["default"], one.cgc_lora_B["default"], one.cgc_lora_gate["default"], embedding)
    x = torch.randn(3, 2, one.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def compute(*_: torch.Tensor) -> torch.Tensor:
        with whole.select_tasks(torch.tensor([1, 0, 2])):
            return one(x)[..., :3]

    assert torch.autograd.gradcheck(compute, inputs)


def test_other_tasks_experts_have_no_gradient():
    whole = trained()
    with whole.select_tasks(["second", "second"]):
        whole(input_ids=token_ids(2)).logits.square().sum().backward()
    layout = config().layout
    used = torch.zeros(layout.ranks, dtype=torch.bool)
    used[layout.of_task(1, torch.device("cpu"))] = True
    for each in tuner(whole).expert_layers("default"):
        assert torch.equal(each.cgc_lora_A["default"].grad.abs().sum(1) > 0, used)
        assert torch.equal(each.cgc_lora_B["default"].grad.abs().sum(0) > 0, used)
    assert torch.equal(tuner(whole).cgc_lora_task_embedding["default"].grad.abs().sum(1) > 0, torch.arange(3) == 1)


# -- beginnings --------------------------------------------------------------------------------------------------------


def test_an_adapter_begins_without_effect_from_the_seed_and_with_equal_weights():
    one, same, other = adapted(seed=3), adapted(seed=3), adapted(seed=4)
    ids = token_ids(3)
    with torch.no_grad(), one.select_tasks(TASKS):
        assert torch.equal(one(input_ids=ids).logits, small_decoder().eval()(input_ids=ids).logits)
    pairs = [
        (value, dict(same.named_parameters())[name], dict(other.named_parameters())[name])
        for name, value in one.named_parameters()
        if "cgc_lora_A" in name or "embedding.default" in name
    ]
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)
    drawn = torch.cat([value.detach().flatten() for value, _, _ in pairs if len(value) == 16])
    assert float(drawn.std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(drawn.mean())) < 0.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 15}, "r is 15, which 8 experts cannot share; set it to a multiple of 8, or set expert_rank"),
        ({"common_experts": 0, "specific_experts": 0}, "one of them at least 1"),
        ({"tasks": []}, "one name or more"),
        ({"tasks": ["a", "a"]}, "all different"),
        ({"gate": "Learned"}, "'Task' or 'Uniform'"),
        ({"expert_rank": 0}, "at least 1"),
    ],
)
def test_settings_that_give_no_experts_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


# -- rows --------------------------------------------------------------------------------------------------------------


def test_task_ids_of_tokens_give_what_those_of_rows_give():
    whole, ids = trained(), token_ids(3)
    per_token = torch.tensor([2, 0, 1])[:, None].expand(3, WIDTH)
    with torch.no_grad():
        with whole.select_tasks(torch.tensor([2, 0, 1])):
            by_row = whole(input_ids=ids).logits
        with whole.select_tasks(per_token):
            close(whole(input_ids=ids).logits, by_row)


def test_rows_of_several_tasks_in_one_sequence_are_as_if_alone():
    """Packed: two rows of 4 and 6 tokens in a sequence, with a mask of their blocks."""
    whole, ids = trained(), token_ids(1)
    segments = torch.tensor([[0] * 4 + [2] * 6])
    positions = torch.tensor([[*range(4), *range(6)]])
    mask = (segments[:, :, None] == segments[:, None, :]) & torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
    with torch.no_grad():
        with whole.select_tasks(segments):
            packed = whole(input_ids=ids, position_ids=positions, attention_mask=mask[:, None]).logits[0]
        for task, part in (("first", slice(0, 4)), ("third", slice(4, None))):
            with whole.select_tasks(task):
                close(packed[part], whole(input_ids=ids[:, part]).logits[0])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (torch.tensor([0, 3]), "from 0 to 2"),
        (torch.tensor([0, -1]), "from 0 to 2"),
        (torch.tensor([0.0, 1.0]), "int64"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), "int64"),
        (["first", "fourth"], "'fourth' is not a task of this adapter; its tasks are first, second, third"),
    ],
)
def test_what_is_no_task_is_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        adapted().select_tasks(tasks)


def test_rows_need_a_task_each():
    whole = adapted()
    with pytest.raises(RuntimeError, match="no task is selected; use the model inside"):
        whole(input_ids=token_ids(2))
    with whole.select_tasks(torch.tensor([0, 1, 2])), pytest.raises(ValueError, match="one task for each row"):
        whole(input_ids=token_ids(2))
    with whole.select_tasks(torch.zeros(2, 4, dtype=torch.int64)), pytest.raises(ValueError, match="for each token"):
        whole(input_ids=token_ids(2))
