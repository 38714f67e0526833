"""CGC-LoRA is used as PEFT's own methods are: saved, loaded, merged, converted, generated with, trained in bf16."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel, save_as_lora
from torch.nn.functional import cross_entropy

from multitask_trainer.tuning.cgc_lora import CgcLoraLinear, read_adapter, write_lora
from multitask_trainer.tuning.cgc_lora.selection import SelectedTasks
from support.cgc_fixtures import (
    TASKS,
    adamw,
    adapted,
    assert_merged,
    close,
    config,
    token_ids,
    train,
    trained,
    tuner,
)
from support.tiny_families import tiny_model
from support.training_fixtures import small_decoder

ROWS = ("third", "first", "second", "third")


def live(model, ids, tasks=ROWS):
    with torch.no_grad(), model.select_tasks(list(tasks)):
        return model(input_ids=ids).logits


def generated(model, ids, **settings):
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        **settings,
    )


@pytest.mark.parametrize("gate", ["Task", "Uniform"])
def test_what_is_saved_is_loaded_for_use_or_for_training(gate, tmp_path):
    model, ids = trained(gate=gate), token_ids(4)
    model.save_pretrained(tmp_path)
    used = PeftModel.from_pretrained(small_decoder(), tmp_path)
    assert not any(value.requires_grad for value in used.parameters())
    close(live(used.eval(), ids), live(model, ids), 1e-6)
    further = PeftModel.from_pretrained(small_decoder(), tmp_path, is_trainable=True)
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    assert [name for name, value in further.named_parameters() if value.requires_grad] == names
    assert tuner(further).config_of().tasks == list(TASKS)


def test_the_trained_parameters_are_printed(capsys):
    adapted().print_trainable_parameters()
    assert "trainable params: 8,984 || all params:" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tasks_lora_loads_in_plain_peft_with_the_same_logits(family, tmp_path):
    base = tiny_model(family)
    layers = ["c_attn", "c_proj", "c_fc"] if family == "gpt2" else ["q_proj", "down_proj"]
    model = trained(copy.deepcopy(base), target_modules=layers, fan_in_fan_out=family == "gpt2")
    ids = token_ids(4)
    model.save_pretrained(tmp_path / "native")
    saved, expected = read_adapter(tmp_path / "native"), live(model, ids)
    for task in TASKS:
        write_lora(saved, task, tmp_path / task)
        plain = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / task).eval()
        for row in (number for number, name in enumerate(ROWS) if name == task):
            with torch.no_grad():
                close(plain(input_ids=ids[row : row + 1]).logits[0], expected[row])
    with pytest.raises(ValueError, match="'fourth' is not a task of this adapter"):
        write_lora(saved, "fourth", tmp_path / "fourth")


def test_with_rslora_the_root_of_the_whole_rank_divides_alpha_everywhere(tmp_path):
    """24 / √16, where α / r is 24 / 16: in rows, in merged weights, and in the LoRA of a task in plain PEFT."""
    model, ids = trained(use_rslora=True), token_ids(4)
    assert (config(use_rslora=True).scaling, config().scaling) == (6.0, 1.5)
    layers = [module for module in model.modules() if isinstance(module, CgcLoraLinear)]
    assert {scaling for layer in layers for scaling in layer.scaling.values()} == {6.0}
    assert_merged(model)
    model.save_pretrained(tmp_path / "native")
    write_lora(read_adapter(tmp_path / "native"), "first", tmp_path / "first")
    plain = PeftModel.from_pretrained(small_decoder(), tmp_path / "first").eval()
    with torch.no_grad():
        close(plain(input_ids=ids).logits, live(model, ids, ["first"] * 4))


def test_layers_whose_weights_are_the_other_way_round_are_merged_too():
    model = trained(tiny_model("gpt2"), target_modules=["c_attn", "c_proj", "c_fc"])
    assert_merged(model)


def test_peft_converts_the_selected_task_to_lora(tmp_path):
    model, ids = trained(), token_ids(4)
    assert model.supports_lora_conversion()
    with pytest.raises(RuntimeError, match="no task is selected"):
        save_as_lora(tmp_path, model, rank=8)
    with model.select_tasks(["first", "second"]), pytest.raises(RuntimeError, match="needs one task"):
        save_as_lora(tmp_path, model, rank=8)
    with model.select_tasks("third"):
        save_as_lora(tmp_path, model, rank=8)  # (2 + 2) · 2: nothing is lost
    plain = PeftModel.from_pretrained(small_decoder(), tmp_path).eval()
    with torch.no_grad():
        close(plain(input_ids=ids[:1]).logits, live(model, ids)[:1])


def test_a_merged_model_refuses_rows_of_another_task_and_unloads_as_the_base(tmp_path):
    model, ids = trained(), token_ids(4)
    expected = live(model, ids, ["second"] * 4)
    with model.select_tasks("second"):
        model.merge_adapter(safe_merge=True)
        close(model(input_ids=ids).logits, expected)
    with model.select_tasks("first"), pytest.raises(RuntimeError, match="another task than the merged one"):
        model(input_ids=ids)
    model.unmerge_adapter()
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()
    with model.select_tasks("second"):
        whole = model.merge_and_unload()
    assert type(whole) is type(small_decoder())
    with torch.no_grad():
        close(whole(input_ids=ids).logits, expected)


def test_without_adapters_the_model_is_the_base():
    model, ids = trained(), token_ids(2)
    with torch.no_grad(), model.disable_adapter():
        close(model(input_ids=ids).logits, small_decoder().eval()(input_ids=ids).logits)


def test_two_adapters_are_switched_and_one_is_deleted():
    model, ids = trained(), token_ids(4)
    first = live(model, ids)
    torch.manual_seed(9)
    model.add_adapter("other", config())
    model.set_adapter("other")
    close(live(model, ids), small_decoder().eval()(input_ids=ids).logits.detach())
    trained_names = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained_names
    assert all(name.endswith(".other") for name in trained_names)
    model.set_adapter("default")
    close(live(model, ids), first)
    model.delete_adapter("other")
    assert not any(name.endswith(".other") for name, _ in model.named_parameters())
    close(live(model, ids), first)
    with pytest.raises(ValueError, match="the same tasks"):
        model.add_adapter("more", config(tasks=["first", "third"], expert_rank=2))


# -- cached decoding ---------------------------------------------------------------------------------------------------


def assert_decoding(model) -> None:
    """Mixed rows generate with their cache what they generate without one, and what the merged task alone does."""
    ids = token_ids(4)
    with torch.no_grad():
        with model.select_tasks(list(ROWS)):
            cached, whole = generated(model, ids), generated(model, ids, use_cache=False)
            cache = model(input_ids=ids, use_cache=True).past_key_values
            new = cached[:, ids.shape[1] :]
            logits = [model(input_ids=token[:, None], past_key_values=cache).logits for token in new.unbind(1)]
        assert torch.equal(cached, whole), "they differ"
        close(torch.cat(logits, 1), live(model, cached)[:, ids.shape[1] :])
        for row, task in enumerate(ROWS):
            with model.select_tasks(task):
                model.merge_adapter()
                alone = generated(model, ids[row : row + 1])
                model.unmerge_adapter()
            assert torch.equal(alone[0], cached[row]), "they differ"


def test_cached_decoding_of_mixed_rows():
    assert_decoding(trained())


def by_number_of_tokens(selected, adapter, number, down):
    """Right for whole prompts; for the single tokens after them the rows' weights are lost."""
    weights = selected.weights[adapter][number]
    return down * (weights[:, None] if down.shape[1] > 1 else weights[0])


def test_a_gate_that_is_wrong_in_cached_decoding_is_noticed(monkeypatch):
    model = trained()
    monkeypatch.setattr(SelectedTasks, "apply", by_number_of_tokens)
    with pytest.raises(AssertionError, match="differ"):
        assert_decoding(model)


def test_one_task_for_all_rows_goes_with_beams():
    model, ids = trained(), token_ids(2)
    with torch.no_grad(), model.select_tasks("second"):
        live_beams = generated(model, ids, num_beams=3)
        model.merge_adapter()
        assert torch.equal(generated(model, ids, num_beams=3), live_beams)


# -- training ----------------------------------------------------------------------------------------------------------


def gradients(model, ids):
    model.zero_grad()
    with model.select_tasks(list(ROWS)):
        logits = model(input_ids=ids).logits
        cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients():
    model, ids = trained(), token_ids(4)
    model.train()
    plain = gradients(model, ids)
    assert len(plain) == 2 * 4 * 3 + 1  # A, B and W_g of each layer, and e
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    checkpointed = gradients(model, ids)
    assert plain.keys() == checkpointed.keys()
    for name, value in plain.items():
        close(checkpointed[name], value)


def test_autocast_to_bf16_trains_the_weights_in_fp32():
    model, ids = trained(), token_ids(4)
    exact = gradients(model, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = gradients(model, ids)
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        close(rounded[name], value, 0.1)


def test_a_base_in_bf16_has_adapters_in_fp32(tmp_path):
    model = trained(small_decoder().bfloat16())
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}
    logits = live(model, token_ids(4))
    assert logits.dtype == torch.bfloat16
    with torch.no_grad(), model.select_tasks("third"):
        model.merge_adapter()
        close(model(input_ids=token_ids(4)).logits[0], logits[0], 0.05)


def test_dropout_is_of_the_adapters_input_and_only_in_training():
    model, ids = trained(lora_dropout=0.5), token_ids(4)
    assert torch.equal(live(model, ids), live(model, ids))
    model.train()
    assert not torch.equal(live(model, ids), live(model, ids))


def test_training_learns_each_task_its_own_answer():
    model = adapted()
    optimizer = adamw(model, lr=3e-2)
    model.train()
    train(model, [TASKS] * 100, optimizer)
    model.eval()
    ids = token_ids(1, seed=77)
    answers = live(model, ids.expand(3, -1), TASKS).argmax(-1)
    right = [(answers[number] == (ids[0] + 7 * number + 3) % 61).float().mean() for number in range(3)]
    assert min(right) > 0.5
