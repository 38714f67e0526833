"""Checkpoints as people have them: what is read, and the sentence that says why one is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import AutoConfig, AutoModelForCausalLM

from multitask_trainer.base_model.checks.base import check_base
from multitask_trainer.base_model.checks.choice import choose_path
from multitask_trainer.base_model.sources import BaseModelSource, make_base
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import StageError
from multitask_trainer.export.bundle import ServableWeights, place_servables
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.loss import freeze_outside_decoder
from support.engine_builders import tokenizer
from support.tiny_families import tiny_model, write_tiny_base

Change = Callable[[Path], None]


def config(**changes: Any) -> Change:
    """Change the keys of config.json; ``text_config`` is merged."""

    def change(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        inner = settings.get("text_config", {}) | changes.pop("text_config", {})
        settings |= changes | ({"text_config": inner} if inner else {})
        (folder / "config.json").write_text(json.dumps(settings))

    return change


def without(pattern: str) -> Change:
    def change(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return change


def adapter(folder: Path) -> None:
    without("*")(folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def remote_code(folder: Path) -> None:
    config(model_type="fancy", auto_map={"AutoConfig": "fancy.Fancy", "AutoModelForCausalLM": "fancy.Fancy"})(folder)
    (folder / "fancy.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")


def slow_tokenizer(folder: Path) -> None:
    """GPT-2's old files instead of tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    without("tokenizer*")(folder)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<eos>", "bos_token": "<bos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def quantised(method: str) -> Change:
    return config(quantization_config={"quant_method": method, "bits": 4})


def made(tmp_path: Path, uri: Path) -> Path:
    source = BaseModelSource(str(uri), None, 0, DataLocations.of(str(tmp_path), {}))
    make_base(source, tmp_path / "made", tasks=(), rows={}, corpus=[])
    return tmp_path / "made"


REFUSED: dict[str, tuple[str, Change, str]] = {
    **{
        f"quantised by {method}": ("llama", quantised(method), rf"quantised \({method}\).*use the checkpoint in bf16")
        for method in ("bitsandbytes", "gptq", "awq", "fp8", "mxfp4", "compressed-tensors")
    },
    "quantised, below text_config": (
        "gemma3",
        config(text_config={"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        r"quantised \(gptq\)",
    ),
    "code of its own": ("llama", remote_code, "program code of its own .auto_map.*not run here"),
    "an unknown architecture": (
        "llama",
        config(model_type="fancy"),
        "model_type is unknown to the installed transformers 5",
    ),
    "an encoder and a decoder": ("llama", config(model_type="t5"), "not a decoder that continues text"),
    "no tokenizer": ("llama", without("tokenizer*"), "there is no tokenizer.json.*add the tokenizer.json"),
    "no weights": ("llama", without("*.safetensors"), "there are no weights beside config.json"),
    "an adapter": ("llama", adapter, "this is an adapter .*merge it into its base"),
    "weights of another model": (
        "llama",
        config(model_type="gpt_neox"),
        "config.json and weights are of different models",
    ),
    "more layers than weights": ("llama", config(num_hidden_layers=4), "lacks 18 weights of LlamaForCausalLM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_that_cannot_be_used_is_refused_in_a_sentence(name, tmp_path):
    family, change, message = REFUSED[name]
    base = write_tiny_base(family, tmp_path / "hub", tokenizer())
    change(base)
    with pytest.raises(StageError, match=message):
        made(tmp_path, base)
    assert not (base / "ran").exists()


def test_files_of_an_older_tokenizer_are_converted(tmp_path):
    base = write_tiny_base("gpt2", tmp_path / "hub", tokenizer())
    slow_tokenizer(base)
    assert (made(tmp_path, base) / "tokenizer.json").exists()


def test_code_beside_a_known_architecture_is_not_needed(tmp_path):
    base = write_tiny_base("phi3", tmp_path / "hub", tokenizer())
    config(auto_map={"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"})(base)
    check_base(made(tmp_path, base))


@pytest.mark.parametrize("window", [0, None])
@pytest.mark.parametrize("family", ["mistral_window", "gemma3_text", "gemma3"])
def test_a_window_of_0_or_null_is_none(family, window, tmp_path):
    base = write_tiny_base(family, tmp_path / "hub", tokenizer())
    off = {"sliding_window": window}
    config(**({"text_config": off} if family == "gemma3" else off))(base)
    folder = made(tmp_path, base)
    text = AutoConfig.from_pretrained(folder).get_text_config()
    assert text.sliding_window in (None, text.max_position_embeddings)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(5, 35)[None]
    with torch.inference_mode():
        changed = torch.cat([ids[:, :1] + 40, ids[:, 1:]], dim=1)
        difference = (model(input_ids=ids).logits - model(input_ids=changed).logits)[0, -1]
    assert difference.abs().max() > 1e-3, "the last token does not see the first one"


UNFIT: dict[str, str] = {
    "recurrent_gemma": "cannot be used: .*with the family's own cache the next tokens differ",
    "bert": "changes its logits after the output head",
}


@pytest.mark.parametrize("family", UNFIT)
def test_a_base_that_fits_no_way_of_running_it_is_refused_with_the_reason(family, tmp_path):
    with pytest.raises(StageError, match=UNFIT[family]):
        check_base(write_tiny_base(family, tmp_path / "base", tokenizer()))


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    tiny_model("llama", vocabulary=64).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(StageError, match="embeddings for 64 tokens: tokenizer and weights are of different models"):
        check_base(tmp_path)


def test_a_plain_decoder_leaves_no_file_and_its_bundle_no_field(tmp_path):
    """So its digests are those of earlier releases, and earlier releases read its bundle."""
    base = write_tiny_base("llama", tmp_path / "base" / "model", tokenizer())
    before = content_digest(tmp_path, ["base"])
    check_base(base)
    (base / "checks.json").unlink()
    assert content_digest(tmp_path, ["base"]) == before
    placed = place_servables(tmp_path / "bundle", base, [ServableWeights("m", base.parent)], "fp32")
    assert "forwardPath" not in placed.models[0].to_json()


def test_what_was_found_is_read_again_where_a_stage_is_restarted(tmp_path):
    base = write_tiny_base("lfm2", tmp_path, tokenizer())
    first = check_base(base)
    (base / "model.safetensors").unlink()
    assert check_base(base) == first


def test_a_text_that_changes_on_its_way_through_the_tokenizer_is_a_warning(tmp_path):
    lowercasing = copy.deepcopy(tokenizer())
    lowercasing.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert check_base(write_tiny_base("llama", tmp_path / "a", tokenizer())).warnings == ()
    (warning,) = check_base(write_tiny_base("llama", tmp_path / "b", lowercasing)).warnings
    assert "does not keep text as it is" in warning


def test_weights_that_a_row_may_not_reach_are_noted_for_several_processes():
    model = tiny_model("llama")
    assert choose_path(model, range(5, 25)).path.partial_gradients is False
    model.model.layers[0].spare = torch.nn.Linear(4, 4)
    assert choose_path(model, range(5, 25)).path.partial_gradients is True


def test_a_vision_tower_is_not_trained():
    model = tiny_model("gemma3")
    freeze_outside_decoder(model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "language_model" in name or "lm_head" in name}
