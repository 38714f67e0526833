"""Checkpoints as people have them: what is read, and the sentence that says why one is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, normalizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from multitask_api.bundle import ForwardPath, PromptFormat
from multitask_serving.engine.prompt.compiling import compile_prompt
from multitask_trainer.base_model.checks import base as checks
from multitask_trainer.base_model.checks.base import check_base
from multitask_trainer.base_model.checks.bf16 import bf16_problem
from multitask_trainer.base_model.checks.choice import choose_path
from multitask_trainer.base_model.checks.gradients import has_partial_gradients
from multitask_trainer.base_model.checks.tokens import check_prompt
from multitask_trainer.base_model.sources import BaseModelSource, make_base
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import StageError
from multitask_trainer.export.bundle import ServableWeights, place_servables
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.loss import freeze_outside_decoder
from support.engine_builders import tokenizer
from support.tiny_families import tiny_model, write_tiny_base

TOKENS = 420
"""The ids of ``tokenizer()``."""
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
    check_base(made(tmp_path, base), "bf16")


@pytest.mark.parametrize("window", [0, -1, None])
@pytest.mark.parametrize("family", ["mistral_window", "gemma3_text", "gemma3"])
def test_a_window_of_0_or_less_or_null_is_none(family, window, tmp_path):
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
    "recurrent_gemma": "cannot be used: windows are fixed to columns .* with the family's own cache the next tokens "
    "cannot be computed .InvalidBundle: RecurrentGemmaModel keeps no cache",
    "openai-gpt": "two rows in one sequence fail .RuntimeError: .*OpenAIGPTModel keeps no cache of the tokens",
    "rwkv": "two rows in one sequence change each other, and .*RwkvModel keeps no cache of the tokens",
    "xlstm": "with the family's own cache the next tokens cannot be computed .ValueError: matC_old has wrong shape",
    "bert": "BertLMHeadModel is an encoder: the logits at a token change with the tokens behind it",
    "roberta": "RobertaForCausalLM is an encoder",
    "electra": "ElectraForCausalLM is an encoder",
    "bert_decoder": "BertLMHeadModel changes its logits after the output head",
    "modernbert-decoder": "ModernBertDecoderForCausalLM changes its logits after the output head",
}


@pytest.mark.parametrize("family", UNFIT)
def test_a_base_that_fits_no_way_of_running_it_is_refused_with_the_reason(family, tmp_path):
    with pytest.raises(StageError, match=UNFIT[family]):
        check_base(write_tiny_base(family, tmp_path / "base", tokenizer()), "bf16")


def breaks(message: str, dtype: torch.dtype) -> PreTrainedModel:
    """A Llama that raises an error in every forward pass in ``dtype``."""
    model = tiny_model("llama", vocabulary=TOKENS)

    def fail(module: torch.nn.Module, *_: Any) -> None:
        if module.get_parameter("lm_head.weight").dtype == dtype:
            raise RuntimeError(message)

    model.register_forward_pre_hook(fail)
    return model


def test_a_model_that_fails_on_a_plain_row_is_refused_with_what_it_raised():
    with pytest.raises(StageError, match=r"LlamaForCausalLM fails on a plain row of text .RuntimeError: no kernel"):
        choose_path(breaks("no kernel.", torch.float32), range(5, 25))


def test_a_model_that_gives_no_numbers_is_refused():
    model = tiny_model("llama")
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(StageError, match="logits that are not numbers for a plain row"):
        choose_path(model, range(5, 25))


@pytest.mark.parametrize("family", ["llama", "mamba", "mamba2", "falcon_mamba", "nemotron_h", "minicpm3", "bloom"])
def test_a_base_that_is_used_runs_in_bf16_too(family):
    model = tiny_model(family)
    assert bf16_problem(model, choose_path(model, range(5, 25)).path, range(5, 25)) is None


def test_a_base_that_fails_in_bf16_is_refused_for_bf16_alone(tmp_path, monkeypatch):
    base = write_tiny_base("llama", tmp_path, tokenizer())
    monkeypatch.setattr(checks, "read_model", lambda *_, **__: breaks("not in half", torch.bfloat16))
    warnings = check_base(base, "fp32").warnings
    assert [text for text in warnings if "with training.precision bf16 this base could not be used" in text]
    with pytest.raises(
        StageError,
        match=r"fails in bf16 on a plain row of text .RuntimeError: not in half.*Set training.precision to fp32",
    ):
        check_base(base, "bf16")


@pytest.mark.parametrize("path", [ForwardPath(), ForwardPath(isolation="Rows", labels="PromptState")])
def test_a_path_whose_answers_are_no_rounding_of_the_right_ones_is_a_problem_in_bf16(path):
    model = tiny_model("llama")
    model.model.layers[1].register_forward_hook(
        lambda _, args, out: out * (1 if args[0].dtype == torch.float32 or len(out) == 1 else -1)
    )
    problem = bf16_problem(model, path, range(5, 25))
    assert problem is not None
    assert "gives other scores of labels in bf16 than in plain forward passes" in problem


def with_tokens(*tokens: str | AddedToken) -> PreTrainedTokenizerFast:
    changed = copy.deepcopy(tokenizer())
    changed.add_tokens(list(tokens))
    return changed


BEYOND: dict[str, tuple[int, PreTrainedTokenizerFast, str]] = {
    "a tokenizer of a larger model": (
        64,
        tokenizer(),
        "gives 356 ids from 64 on, .* embeddings for 64 tokens: .*models",
    ),
    "added words": (TOKENS, with_tokens("plum", "fig"), "gives 2 ids from 420 on, for example for 'plum'"),
    "an added end of answers": (
        TOKENS,
        with_tokens(AddedToken("<end>", special=True)),
        "gives 1 ids from 420 on, for example for '<end>'.*resize_token_embeddings",
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_ids_without_embeddings_are_refused(name, tmp_path):
    rows, changed, message = BEYOND[name]
    if "<end>" in changed.get_vocab():
        changed.eos_token = "<end>"
    tiny_model("llama", vocabulary=rows).save_pretrained(tmp_path)
    changed.save_pretrained(tmp_path)
    with pytest.raises(StageError, match=message):
        check_base(tmp_path, "bf16")


def test_a_special_token_without_an_embedding_is_refused_only_where_a_prompt_has_it(tmp_path):
    """Gemma 3's smallest model has one, for images. In a text, its characters stand for it."""
    changed = with_tokens(AddedToken("<image>", special=True))
    model = tiny_model("llama", vocabulary=TOKENS)
    model.save_pretrained(tmp_path)
    changed.save_pretrained(tmp_path)
    check_base(tmp_path, "bf16")
    prompt_format = PromptFormat()
    for prompt in ("{text}\nKind:", "see <imag> {text}"):
        check_prompt(model, changed, "kind", *compile_prompt(prompt, changed, prompt_format, chat=False))
    with pytest.raises(StageError, match=r"task kind: its prompt has the token '<image>' with the id 420.*420 tokens"):
        check_prompt(model, changed, "kind", *compile_prompt("<image>{text}", changed, prompt_format, chat=False))


def test_a_plain_decoder_leaves_no_file_and_its_bundle_no_field(tmp_path):
    """So its digests are those of earlier releases, and earlier releases read its bundle."""
    base = write_tiny_base("llama", tmp_path / "base" / "model", tokenizer())
    before = content_digest(tmp_path, ["base"])
    check_base(base, "bf16")
    (base / "checks.json").unlink()
    assert content_digest(tmp_path, ["base"]) == before
    placed = place_servables(tmp_path / "bundle", base, [ServableWeights("m", base.parent)], "fp32")
    assert "forwardPath" not in placed.models[0].to_json()


def test_what_was_found_is_read_again_where_a_stage_is_restarted(tmp_path):
    base = write_tiny_base("lfm2", tmp_path, tokenizer())
    first = check_base(base, "bf16")
    (base / "model.safetensors").unlink()
    assert check_base(base, "bf16") == first


def test_a_text_that_changes_on_its_way_through_the_tokenizer_is_a_warning(tmp_path):
    lowercasing = copy.deepcopy(tokenizer())
    lowercasing.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert check_base(write_tiny_base("llama", tmp_path / "a", tokenizer()), "bf16").warnings == ()
    (warning,) = check_base(write_tiny_base("llama", tmp_path / "b", lowercasing), "bf16").warnings
    assert "does not keep text as it is" in warning


def test_weights_that_a_row_may_not_reach_are_noted_for_several_processes():
    model = tiny_model("llama")
    assert choose_path(model, range(5, 25)).path.partial_gradients is False
    model.model.layers[0].spare = torch.nn.Linear(4, 4)
    assert choose_path(model, range(5, 25)).path.partial_gradients is True


@pytest.mark.parametrize(("chosen", "partial"), [(1, True), (3, False)])
def test_experts_that_a_text_reaches_by_chance_are_not_taken_for_weights_that_each_row_reaches(chosen, partial):
    """Three experts as modules of their own, and a router that sends neighbouring tokens to different ones."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp = Experts(layer.mlp, chosen)
    tokens = list(range(5, 25))
    assert has_partial_gradients(model, tokens) is partial


class Experts(torch.nn.Module):
    """Token i goes to ``chosen`` of the three, from number i on."""

    def __init__(self, like: torch.nn.Module, chosen: int) -> None:
        super().__init__()
        self.experts = torch.nn.ModuleList([copy.deepcopy(like) for _ in range(3)])
        self.chosen = chosen

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            tokens = [i for i in range(hidden.shape[1]) if (number - i) % 3 < self.chosen]
            if tokens:
                out[:, tokens] = out[:, tokens] + expert(hidden[:, tokens])
        return out


def test_a_vision_tower_is_not_trained():
    model = tiny_model("gemma3")
    freeze_outside_decoder(model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "language_model" in name or "lm_head" in name}
