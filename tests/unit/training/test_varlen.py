"""Varlen attention against padded rows and masks, on real models; the kernel of a GPU with tensors without values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, MistralConfig, OPTConfig, OPTForCausalLM, Qwen2Config

from multitask_api.estimates.fitting import PACK_WIDTH
from multitask_api.resource.tuning import Tuning
from multitask_trainer.training.attention import varlen
from multitask_trainer.training.attention.choice import choose_attention, difference_problem, varlen_problem
from multitask_trainer.training.attention.varlen import VARLEN
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.multi_lora.batches import JointBatches
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.parallelism.data_parallel import DataParallel
from multitask_trainer.tuning import tuning_method
from support.training_fixtures import optimisation, small_decoder

METHODS = {
    "Full": Tuning(method="Full"),
    "LoRA": Tuning(method="LoRA", rank=8),
    "CGCLoRA": Tuning(method="CGCLoRA", rank=9),
}
TASKS = ("a", "b")


def task_batches(*, pack, token_budget=200, first=87):
    """Sixteen rows a step of 5 to 90 tokens; the prompt of each task's first row has ``first``."""
    generator = np.random.default_rng(5)
    datasets = []
    for answer in (1, 3):
        prompts = [generator.integers(0, 61, length).tolist() for length in (first, *generator.integers(4, 60, 20))]
        datasets.append(EncodedDataset.of(prompts, [generator.integers(0, 61, answer).tolist() for _ in prompts]))
    sampler = Sampler(dict.fromkeys(TASKS, 0.5), dict.fromkeys(TASKS, 21), batch_rows=16, seed=1)
    return TaskBatches(sampler, datasets, 16, token_budget, pack=pack)


def make_step(tuning=METHODS["Full"], *, base=None, checkpointing="Auto", parallelism=None):
    """A model whose heads share keys, none of its weights zero, and what makes its gradients."""
    method = tuning_method(tuning, TASKS)
    torch.manual_seed(1)
    model = method.prepare(base or small_decoder()).train()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    settings = TrainingSettings(4, optimisation(), checkpointing)
    accelerator = Accelerator(cpu=True)
    return model, OptimizerStep(model, settings, method=method, accelerator=accelerator, parallelism=parallelism)


def gradients(step, micro_batches):
    loss = sum(step.backward(batch) for batch in micro_batches)
    by_name = {name: value.grad.clone() for name, value in step.parameters.items()}
    step.optimizer.zero_grad()
    return loss, by_name


def choose(model, step, batches):
    return choose_attention(model, step, batches, Accelerator(cpu=True), max_length=128)


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_those_of_padded_rows_also_with_checkpointing(name):
    model, step = make_step(METHODS[name])
    loss, expected = gradients(step, task_batches(pack=False).at(0))
    batches, attention = choose(model, step, task_batches(pack=True))
    assert attention.kind == "Varlen"
    assert all(value.grad is None for value in step.parameters.values())
    micro_batches = batches.at(0)
    assert len(micro_batches) > 2
    assert [batch.input_ids.shape for batch in micro_batches] == [(1, batch.tokens) for batch in micro_batches]
    assert max(batch.tokens for batch in micro_batches) <= 200
    for _ in range(2):
        actual_loss, actual = gradients(step, micro_batches)
        torch.testing.assert_close(actual_loss, loss, rtol=1e-6, atol=0)
        for key, value in expected.items():
            torch.testing.assert_close(actual[key], value, rtol=1e-4, atol=1e-6, msg=key)
            assert value.abs().max() > 1e-4
        assert step.use_checkpointing()


def test_the_largest_micro_batch_is_full_of_the_longest_row():
    batches = task_batches(pack=True).with_varlen()
    longest = batches.longest(3)
    assert longest.cumulative_lengths.tolist() == list(range(0, 19 * 89, 89))
    assert longest.input_ids.shape == (1, 18 * 89)
    assert longest.tokens >= 3 * batches.width > longest.tokens - 89
    assert longest.longest_row == 89
    assert max(batch.tokens for batch in batches.with_budget(3 * batches.width).at(0)) <= longest.tokens


def test_a_row_that_is_over_the_budget_is_alone():
    batches = task_batches(pack=True).with_varlen().with_budget(1)
    assert [len(batch.cumulative_lengths) for batch in batches.at(0)] == [2] * 16


def plain_causal(query, key, value, _cumulative_lengths, dropout, scale):
    """What a row would see if nothing kept it apart."""
    return varlen_row_by_row(query, key, value, torch.tensor([0, len(query)]), dropout, scale)


def fails(*_):
    raise RuntimeError("no kernel image is available")


varlen_row_by_row = varlen._row_by_row
BROKEN = [
    pytest.param(plain_causal, "varlen attention gives other", id="rows see each other"),
    pytest.param(fails, "varlen attention fails: RuntimeError: no kernel image", id="no such kernel"),
]


@pytest.mark.parametrize(("attention", "reason"), BROKEN)
def test_where_it_gives_something_else_or_fails_a_mask_is_used(attention, reason, monkeypatch, capsys):
    model, step = make_step(METHODS["LoRA"])
    expected = gradients(step, task_batches(pack=True).at(0))
    monkeypatch.setattr(varlen, "_row_by_row", attention)
    batches, chosen = choose(model, step, task_batches(pack=True))
    assert chosen.kind == "Mask"
    assert reason in chosen.reason
    assert f"kept apart by a mask: {chosen.reason}" in capsys.readouterr().out
    assert step.loss.training
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(gradients(step, batches.at(0)), expected)


@pytest.mark.parametrize("first", [3, 2000])
def test_a_trial_is_one_short_sequence_however_long_the_rows_are(first):
    batches = task_batches(pack=True, token_budget=4096, first=first)
    joint = JointBatches([batches, batches, batches], 4096)
    for trial in (batches, joint, batches.with_varlen(), joint.with_varlen()):
        for batch in trial.trial():
            assert batch.input_ids.shape[0] == 1
            assert 30 <= batch.tokens <= batch.input_ids.numel() <= PACK_WIDTH // 4
            assert (batch.position_ids == 0).sum() >= 4  # so many rows


def opt():
    """A decoder that drops values by functions, as its configuration says."""
    config = OPTConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, ffn_dim=48, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=128, dropout=0.5, layerdrop=0.5, attn_implementation="sdpa",
    )  # fmt: skip
    return OPTForCausalLM(config)


@pytest.mark.parametrize(
    ("tuning", "base", "passes"),
    [
        pytest.param(Tuning(method="LoRA", rank=8, dropout=0.5), small_decoder, 2, id="of an adapter"),
        pytest.param(METHODS["Full"], opt, 1, id="of the base, whose layers are not computed again"),
    ],
)
def test_a_trial_drops_nothing_and_keeps_only_the_inputs_of_layers_as_training_does(tuning, base, passes):
    model, step = make_step(tuning, base=base(), checkpointing="Always")
    frozen_part = next(module for module in model.modules() if isinstance(module, nn.Linear))
    frozen_part.eval()
    before = {name: module.training for name, module in model.named_modules()}
    calls = []
    for name, module in model.named_modules():
        if name.endswith("self_attn"):
            module.register_forward_hook(lambda *_: calls.append(1))
    _, attention = choose(model, step, task_batches(pack=True))
    assert attention.kind == "Varlen"
    assert len(calls) == 2 * 2 * passes  # layers, with a mask and without
    assert {name: module.training for name, module in model.named_modules()} == before


class CollectivePasses(DataParallel):
    """As if all processes made each pass together."""

    has_collective_passes = True


def test_a_trial_without_memory_is_made_again_with_checkpointing(monkeypatch):
    model, step = make_step()

    def attend(*arguments):
        if not step.is_checkpointing:
            raise torch.OutOfMemoryError
        return varlen_row_by_row(*arguments)

    monkeypatch.setattr(varlen, "_row_by_row", attend)
    assert choose(model, step, task_batches(pack=True))[1].kind == "Varlen"


def no_memory(*_):
    raise torch.OutOfMemoryError("tried to allocate 2 GiB")


def test_without_memory_a_mask_is_used_except_where_the_other_processes_wait_in_the_pass(monkeypatch):
    monkeypatch.setattr(varlen, "_row_by_row", no_memory)
    model, step = make_step()
    assert "OutOfMemoryError: tried" in choose(model, step, task_batches(pack=True))[1].reason
    model, step = make_step(parallelism=CollectivePasses(Accelerator(cpu=True)))
    with pytest.raises(torch.OutOfMemoryError):
        choose(model, step, task_batches(pack=True))
    assert step.is_checkpointing
    assert model.config._attn_implementation == "sdpa"
    assert all(value.grad is None for value in step.parameters.values())


def test_padded_rows_have_no_attention_to_choose():
    model, step = make_step()
    batches = task_batches(pack=False)
    assert choose(model, step, batches) == (batches, None)


@pytest.mark.parametrize(
    ("config", "in_full_precision", "reason"),
    [
        (LlamaConfig(), False, None),
        (LlamaConfig(), True, "half precision"),
        (LlamaConfig(attention_dropout=0.1), False, "at random"),
        (MistralConfig(sliding_window=2048), False, None),
        (MistralConfig(sliding_window=100), False, "no more than 100 tokens, and rows may have 2048"),
        (Qwen2Config(sliding_window=100, use_sliding_window=False), False, None),
    ],
)
def test_what_a_configuration_says_against_it(config, in_full_precision, reason):
    problem = varlen_problem(config, max_length=2048, in_full_precision=in_full_precision)
    assert problem is None if reason is None else reason in (problem or "")


def test_what_is_not_a_number_differs():
    ones, nan = torch.ones(3), torch.tensor([1.0, 1.0, torch.nan])
    assert difference_problem((ones, ones), (ones, 1.0001 * ones), (1e-4, 1e-3)) is None
    assert "other losses" in (difference_problem((ones, ones), (nan, ones), (1e-4, 1e-3)) or "")
    assert "other gradients" in (difference_problem((ones, ones), (ones, 1.01 * ones), (1e-4, 1e-3)) or "")


@pytest.mark.parametrize("asked", [{"softcap": 30.0}, {"s_aux": torch.ones(4)}, {"sliding_window": 3}])
def test_a_layer_that_asks_for_more_than_causality_is_refused(asked):
    layer = small_decoder().model.layers[0].self_attn
    states = torch.randn(1, 4, 6, 8)
    lengths = {"cu_seq_lens_q": torch.tensor([0, 2, 6], dtype=torch.int32), "max_length_q": 4}
    with pytest.raises(ValueError, match="LlamaAttention asks for"):
        varlen.varlen_attention(layer, states, states, states, None, **lengths, **asked)


def test_a_gpu_computes_all_rows_by_one_kernel_in_the_precision_of_autocast(monkeypatch):
    """Tensors that are said to be on a GPU and have no values: PyTorch checks the kernel's arguments all the same."""
    given = []

    def kernel(*arguments):
        given.append(arguments)
        return varlen_kernel(*arguments)

    varlen_kernel = varlen._kernel
    monkeypatch.setattr(varlen, "_kernel", kernel)
    with FakeTensorMode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.device("cuda"):
        model = small_decoder()
        model.set_attn_implementation(VARLEN)
        ids, begins = torch.zeros(1, 12, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)
        lengths = {"cu_seq_lens_q": begins, "max_length_q": 7}
        torch.set_autocast_dtype("cuda", torch.bfloat16)  # the context of autocast asks for a real GPU
        torch.set_autocast_enabled("cuda", True)
        try:
            hidden = model.model(input_ids=ids, position_ids=ids, use_cache=False, **lengths).last_hidden_state
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert hidden.shape == (1, 12, 32)
    assert len(given) == 2
    for query, key, value, *_ in given:
        assert [each.dtype for each in (query, key, value)] == [torch.bfloat16] * 3
        assert (query.shape, key.shape, value.shape) == ((12, 4, 8), (12, 2, 8), (12, 2, 8))
