from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from multitask_api.bundle import Adapter
from multitask_api.errors import UserError
from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import attach_adapters
from multitask_serving.engine.model.loading import read_adapter
from multitask_trainer.base_model.loading import load_base
from multitask_trainer.tuning import tuning_method

IDS = torch.arange(20).reshape(2, 10)


def tuning(name="LoRA", **changes):
    return Tuning.model_validate({"method": name, "rank": 4, "alpha": 12, **changes})


def shaken(model, seed=3):
    """Every trained weight moved, so that a delta is not zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.1)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("name", ["Full", "LoRA"])
def test_what_is_saved_can_be_loaded_and_trained_further(name, base_folder, tmp_path):
    tuned = tuning_method(tuning(name))
    first = shaken(tuned.prepare(load_base(base_folder)))
    tuned.save(first, tmp_path / "weights")
    second = tuned.prepare(load_base(base_folder)).eval()
    assert not torch.allclose(logits(first), logits(second), atol=1e-3)
    tuned.load(second, tmp_path / "weights")
    assert torch.equal(logits(first), logits(second))


def test_full_serves_a_whole_model_with_the_bases_other_files(base_folder, tmp_path):
    (base_folder / "tokenizer.json").write_text("{}")
    tuned = tuning_method(tuning("Full"))
    trained = shaken(tuned.prepare(load_base(base_folder)))
    tuned.save(trained, tmp_path / "weights")
    tuned.write_servable(base_folder, tmp_path / "weights", "any", tmp_path / "served", "fp32")
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "served" / "model")
    assert torch.equal(logits(trained), logits(served))
    assert (tmp_path / "served" / "model" / "tokenizer.json").read_text() == "{}"
    assert served.config.use_cache


def test_full_in_bf16_has_half_the_bytes(base_folder, tmp_path):
    tuned = tuning_method(tuning("Full"))
    tuned.save(tuned.prepare(load_base(base_folder)), tmp_path / "weights")
    for precision in ("fp32", "bf16"):
        tuned.write_servable(base_folder, tmp_path / "weights", "any", tmp_path / precision, precision)
    weights = {name: load_file(tmp_path / name / "model" / "model.safetensors") for name in ("fp32", "bf16")}
    assert {value.dtype for value in weights["bf16"].values()} == {torch.bfloat16}
    assert all(torch.equal(weights["bf16"][name], value.bfloat16()) for name, value in weights["fp32"].items())


@pytest.mark.parametrize(("rslora", "scaling"), [(None, 3.0), (True, 6.0)])
def test_a_served_adapter_gives_what_peft_gives(base_folder, tmp_path, rslora, scaling):
    tuned = tuning_method(tuning(useRslora=rslora))
    trained = shaken(tuned.prepare(load_base(base_folder)))
    tuned.save(trained, tmp_path / "weights")
    tuned.write_servable(base_folder, tmp_path / "weights", "any", tmp_path / "served", "fp32")
    settings = json.loads((tmp_path / "served" / "adapter.json").read_text())
    assert settings == {"rank": 4, "scaling": scaling}
    assert json.loads((tmp_path / "weights" / "adapter_config.json").read_text())["use_rslora"] is bool(rslora)

    served = load_base(base_folder).eval()
    plain = logits(served)
    index = ActiveAdapters(served.device)
    attach_adapters(served, [read_adapter(tmp_path, Adapter(name="a", path="served", **settings))], index)
    with index.use([1, 1]):
        assert torch.allclose(logits(served), logits(trained), atol=1e-5)
    assert not torch.allclose(plain, logits(trained), atol=1e-2)


def test_lora_trains_every_linear_layer_below_the_head_and_nothing_else(base_folder):
    trained = tuning_method(tuning()).prepare(load_base(base_folder))
    names = [name for name, value in trained.named_parameters() if value.requires_grad]
    kinds = {name.split(".lora_")[0].rpartition(".")[2] for name in names}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(names) == 2 * 7 * 2
    assert all("lora_" in name for name in names)


def test_lora_trains_only_the_layers_asked_for(base_folder):
    trained = tuning_method(tuning(targetModules=["q_proj", "v_proj"])).prepare(load_base(base_folder))
    names = [name for name, value in trained.named_parameters() if value.requires_grad]
    assert len(names) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targetModules": ["query"]}, "targetModules: query: .* called down_proj, gate_proj, .*; name some"),
        ({"targetModules": ["lm_head"]}, "targetModules: lm_head"),
    ],
)
def test_layers_that_cannot_be_adapted(settings, message, base_folder):
    with pytest.raises(UserError, match=message):
        tuning_method(tuning(**settings)).prepare(load_base(base_folder))


@pytest.mark.parametrize("name", ["Full", "LoRA"])
def test_weights_of_another_base_are_refused(name, base_folder, tmp_path, request):
    tuned = tuning_method(tuning(name))
    tuned.save(tuned.prepare(load_base(base_folder)), tmp_path / "weights")
    other = tuned.prepare(request.module.wider())
    with pytest.raises(UserError, match="redo"):
        tuned.load(other, tmp_path / "weights")


def wider():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=61, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    )


def test_a_folder_without_a_model_is_a_plain_error(tmp_path):
    with pytest.raises(UserError, match="the base model cannot be read"):
        load_base(tmp_path)
