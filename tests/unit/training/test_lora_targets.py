"""What LoRA adapts of each family, that the engine serves just that, and that merged weights compute the same."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from multitask_api.bundle import Adapter
from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import add_to_weights, attach_adapters
from multitask_serving.engine.model.loading import read_adapter
from multitask_serving.engine.model.lora import RowLoraLinear
from multitask_trainer.errors import StageError
from multitask_trainer.tuning import tuning_method
from multitask_trainer.tuning.targets import find_targets
from support.base_families import CONFIGS, family
from support.tiny_families import tiny_model

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
STACKS = {"gate_up_proj", "down_proj"}
LATENT = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
# family → last names of adapted layers, their number, last names of adapted stacks, their number
ADAPTED = {
    "llama": (ATTENTION | MLP, 14, set(), 0),
    "llama-tied": (ATTENTION | MLP, 14, set(), 0),
    "gpt2": ({"c_attn", "c_proj", "c_fc"}, 8, set(), 0),
    "gemma3-multimodal": (ATTENTION | MLP, 14, set(), 0),
    "mixtral": (ATTENTION, 8, STACKS, 4),
    "qwen3-moe": (ATTENTION | MLP, 11, STACKS, 2),
    "qwen2-moe": (ATTENTION | MLP, 14, STACKS, 4),
    "gpt-oss": (ATTENTION, 8, STACKS, 4),
    "granite-moe": (ATTENTION, 8, STACKS, 4),
    "deepseek-v3": (LATENT | MLP, 16, STACKS, 2),
    # A state-space layer, which has an in_proj and an out_proj, and an attention layer.
    "bamba": (ATTENTION | MLP | {"in_proj"}, 11, set(), 0),
}
IDS = torch.randint(3, 410, (5, 7), generator=torch.Generator().manual_seed(0))


def lora(**changes: object):
    return tuning_method(Tuning.model_validate({"method": "LoRA", "rank": 3, "alpha": 6} | changes))


def logits(model: nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def test_every_family_has_its_expectation():
    assert ADAPTED.keys() == CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_projections_of_the_text_decoder_are_adapted_and_nothing_else(name):
    targets = find_targets(family(name))
    layers, layer_count, stacks, stack_count = ADAPTED[name]
    assert {path.rpartition(".")[2] for path in targets.linear} == layers
    assert len(targets.linear) == layer_count
    assert {path.rpartition(".")[2] for path in targets.experts} == stacks
    assert len(targets.experts) == stack_count
    assert not [path for path in (*targets.linear, *targets.experts) if "vision" in path or "router" in path]
    assert ("state-space" in "".join(targets.notices())) == (name == "bamba")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "bamba"])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_rows_of_mixed_adapters_and_merged_weights_are_what_was_trained(name, tmp_path):
    trained, adapters = [family(name)], []
    for number, rank in enumerate((3, 5)):
        tuned = lora(rank=rank)
        model = tuned.prepare(family(name))
        model(input_ids=IDS).logits.logsumexp(-1).mean().backward()
        asked = {path: value for path, value in model.named_parameters() if value.requires_grad}
        # A weight without a gradient stops training on several GPUs.
        assert not [path for path, value in asked.items() if value.grad is None]
        torch.manual_seed(number)
        with torch.no_grad():
            for value in asked.values():
                value.add_(torch.randn_like(value) * 0.15)
        tuned.save(model, tmp_path / f"weights-{number}")
        again = tuned.prepare(family(name))
        tuned.load(again, tmp_path / f"weights-{number}")
        assert torch.equal(logits(again.eval()), logits(model.eval()))
        trained.append(model)
        folder = tmp_path / f"served-{number}"
        tuned.write_servable(tmp_path, tmp_path / f"weights-{number}", "any", folder, "fp32")
        settings = json.loads((folder / "adapter.json").read_text())
        adapters.append(read_adapter(tmp_path, Adapter(name="a", path=folder.name, **settings)))

    expected = [logits(model) for model in trained]
    served, numbers = family(name), [2, 0, 1, 2, 1]
    active = ActiveAdapters(served.device)
    attach_adapters(served, adapters, active)
    with active.use(numbers):
        mixed = logits(served)
    for row, number in enumerate(numbers):
        torch.testing.assert_close(mixed[row], expected[number][row], atol=1e-4, rtol=0)
    with active.use([1] * 5):
        torch.testing.assert_close(logits(served), expected[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits(served), expected[0], atol=0, rtol=0)
    assert (expected[1] - expected[0]).abs().max() > 0.5

    merged = family(name)
    add_to_weights(merged, adapters[1])
    torch.testing.assert_close(logits(merged), expected[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("llama", "lm_head", "targetModules: lm_head: it is the output head; .* are called down_proj, .*; name"),
        ("llama", "query", "targetModules: query: the base model has no such layer; .* called down_proj, gate_proj"),
        ("gemma3-multimodal", "fc1", "targetModules: fc1: no forward pass of text runs it"),
        ("mixtral", "gate", "targetModules: gate: it is a router"),
        ("qwen2-moe", "shared_expert_gate", "targetModules: shared_expert_gate: it is a router"),
        ("bamba", "out_proj", "targetModules: out_proj: the fused kernels of state-space layers"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_adapted_says_why(name, module, message):
    with pytest.raises(StageError, match=message):
        lora(targetModules=["q_proj" if name != "gpt2" else "c_attn", module]).check(lambda: family(name), "fp32")


@pytest.mark.parametrize("module", ["experts", "gate_up_proj"])
def test_stacked_weights_can_be_named(module):
    named = find_targets(family("mixtral")).named([module])
    assert not named.linear
    assert len(named.experts) == (4 if module == "experts" else 2)
    assert lora(targetModules=[module]).check(lambda: family("mixtral"), "fp32") == []


def test_with_dropout_stacked_weights_stay_as_they_are_and_the_base_says_so():
    (notice,) = lora(dropout=0.1).check(lambda: family("mixtral"), "fp32")
    assert notice.startswith("LoRA does not adapt model.layers.*.mlp.experts.down_proj, ")
    assert "with tuning.dropout 0 they are adapted too" in notice
    with pytest.raises(StageError, match="targetModules: experts: stacked expert weights cannot have dropout"):
        lora(dropout=0.1, targetModules=["experts"]).check(lambda: family("mixtral"), "fp32")


class Chosen(nn.Module):
    """Experts that are modules of their own, as many older models have them: each gets the tokens chosen for it."""

    def __init__(self, dense: nn.Module, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 3, bias=False)
        self.experts = nn.ModuleList([dense, nn.Linear(width, width), nn.Linear(width, width)])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(hidden)
        chosen = self.gate(hidden).argmax(-1)
        for number, expert in enumerate(self.experts):
            tokens = chosen == number
            if tokens.any():
                out[tokens] = expert(hidden[tokens])
        return out


class Stacked(nn.Module):
    """Weights of experts that are applied to all tokens in a way of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, width, width) * 0.1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bsi,eio->bso", hidden, self.weights)


def changed(make) -> LlamaForCausalLM:
    """A Llama whose feed-forward layers are ``make(layer)``."""
    model = family("llama")
    for layer in model.model.layers:
        layer.mlp = make(layer.mlp)
    return model


@pytest.mark.parametrize(
    ("make", "notice"),
    [
        (
            lambda mlp: Chosen(mlp, 32),
            r"model\.layers\.\*\.mlp\.experts\.\*.* only some tokens, such as a router",
        ),
        (lambda mlp: Stacked(32), r"model\.layers\.\*\.mlp\.weights \(Stacked\): its stacked weights are not applied"),
    ],
)
def test_experts_that_the_engine_could_not_serve_by_row_are_left_out_and_named(make, notice):
    targets = find_targets(changed(make))
    assert {path.rpartition(".")[2] for path in targets.linear} == ATTENTION
    assert targets.experts == ()
    assert any(re.search(notice, text) for text in targets.notices())


def test_a_base_with_nothing_to_adapt_is_refused_with_the_kinds_of_its_layers():
    model = changed(lambda mlp: Stacked(32))
    for layer in model.model.layers:
        for name in ATTENTION:
            layer.self_attn.get_submodule(name).requires_grad_(requires_grad=False)
            setattr(layer.self_attn, name, Wrapped(layer.self_attn.get_submodule(name).weight))
    with pytest.raises(StageError, match=r"LoRA has nothing to adapt.*\(Stacked\).*\(Wrapped\).*use method Full"):
        lora().check(lambda: model, "fp32")


class Wrapped(nn.Module):
    """A linear layer of a class of its own."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.weight)


@pytest.mark.parametrize("name", ["deepseek_v32", "glm_moe_dsa"])
def test_a_family_that_looks_at_the_weights_of_its_layers_can_be_served(name):
    """Their indexers cast to the dtype of a layer before they call it."""
    assert lora().check(lambda: tiny_model(name), "bf16") == []


def ignores_rows(self: RowLoraLinear, x: torch.Tensor) -> torch.Tensor:
    """Every row gets the first adapter."""
    added = nn.functional.linear(nn.functional.linear(x, self.A[1]), self.B[1])
    return self.base(x) + (added if any(self.active.batch.numbers) else 0)


def fails_in_half(self: RowLoraLinear, x: torch.Tensor) -> torch.Tensor:
    return right(self, x.float() if x.dtype == torch.bfloat16 else x)


right = RowLoraLinear.forward


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, x: self.base(x), r"would not be served as they are trained \(by [0-9.]+ standard deviations"),
        (ignores_rows, r"would not be served as they are trained \(by [0-9.]+ standard deviations"),
        (lambda self, x: self.gone, "cannot be served .AttributeError: 'RowLoraLinear' object has no attribute 'gone'"),
        (fails_in_half, "cannot be served in bf16 .RuntimeError"),
    ],
    ids=["no adapter", "the same adapter for all", "an error", "an error in bf16"],
)
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_adapters_that_would_be_served_other_than_trained_are_refused_in_base(name, forward, message, monkeypatch):
    monkeypatch.setattr(RowLoraLinear, "forward", forward)
    with pytest.raises(StageError, match=f"tuning.method: LoRA: adapters of .*{message}.*Use method Full"):
        lora().check(lambda: family(name), "bf16")


def test_the_check_leaves_the_order_of_random_numbers_as_it_is():
    base = family("llama")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    lora().check(lambda: copy.deepcopy(base), "fp32")
    assert torch.equal(torch.rand(1), expected)
