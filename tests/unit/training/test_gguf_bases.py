"""Bases in one GGUF file: read as the model that was written, and refused in a sentence."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from multitask_trainer.base_model.builtin import make_tokenizer
from multitask_trainer.base_model.checks.base import check_base
from multitask_trainer.base_model.loading import load_tokenizer
from multitask_trainer.base_model.parameter_count import parameter_count
from multitask_trainer.base_model.sources import BaseModelSource, make_base
from multitask_trainer.data.fingerprints import HashCache, resolve_folder
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import HubUnreachable, StageError
from support.engine_builders import TEXT
from support.gguf_files import write_gguf

HERE = DataLocations.of(".", {})
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHAT = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(TEXT, 400)
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Grouped heads, and an output head of its own."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.15, max_position_embeddings=512, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with two files of one model. Tests do not change it."""
    folder = tmp_path_factory.mktemp("hub")
    write_gguf(folder / "tiny-F32.gguf", model, tokenizer)
    write_gguf(folder / "tiny-Q8_0.gguf", model, tokenizer, weights=GGMLQuantizationType.Q8_0)
    return folder


def made(tmp_path: Path, uri: str, file: str, revision: str | None = None) -> Path:
    source = BaseModelSource(uri, revision, 0, DataLocations.of(str(tmp_path), {}), file)
    make_base(source, tmp_path / "made", tasks=(), rows={}, corpus=[])
    return tmp_path / "made"


def largest_difference(folder: Path, model: LlamaForCausalLM) -> float:
    """Of logits, as a part of their largest size."""
    ids = torch.arange(60)[None] * 7 % model.config.vocab_size
    with torch.inference_mode():
        expected = model(ids).logits
        actual = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("file", "most"), [("tiny-F32.gguf", 1e-5), ("tiny-Q8_0.gguf", 0.1)])
def test_a_gguf_file_becomes_an_ordinary_base(hub, model, tokenizer, tmp_path, file, most):
    base = made(tmp_path, f"file://{hub}", file)
    assert largest_difference(base, model) < most
    read = AutoModelForCausalLM.from_pretrained(base)
    assert {value.dtype for value in read.parameters()} == {torch.float32}
    assert not hasattr(read.config, "quantization_config")
    assert read.num_parameters() == model.num_parameters() == parameter_count(f"file://{hub}", None, HERE, file)
    own = load_tokenizer(base)
    for text in TEXT[:4]:
        assert own(text).input_ids == tokenizer(text).input_ids
    assert (own.chat_template, own.eos_token, own.pad_token) == (CHAT, tokenizer.eos_token, tokenizer.pad_token)
    check_base(base, "bf16")


def test_only_the_named_file_of_a_store_is_fetched(hub, model, tmp_path):
    store = fsspec.filesystem("memory")
    store.put(f"{hub}/", "/gguf/", recursive=True)
    try:
        assert largest_difference(made(tmp_path, "memory://gguf", "tiny-F32.gguf"), model) < 1e-5
        assert [path.name for path in (tmp_path / "download").iterdir()] == ["tiny-F32.gguf"]
    finally:
        store.rm("/gguf", recursive=True)


def test_a_file_of_the_hub_is_read_from_its_cache_without_the_hub(hub, model, tmp_path, monkeypatch):
    snapshot = tmp_path / f"models--org--tiny/snapshots/{COMMIT}"
    snapshot.mkdir(parents=True)
    shutil.copy(hub / "tiny-F32.gguf", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert largest_difference(made(tmp_path, "hf://org/tiny", "tiny-F32.gguf", COMMIT), model) < 1e-5
    with pytest.raises(HubUnreachable, match=rf"hf://org/tiny@{COMMIT}: other.gguf: HF_HUB_OFFLINE keeps"):
        made(tmp_path, "hf://org/tiny", "other.gguf", COMMIT)


def cut(amount: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:amount])

    return change


REFUSED = {
    "cut in its last tensor": (cut(-1000), "is cut short or damaged.*copy it again"),
    "cut in its metadata": (cut(3000), "is cut short or damaged: what it announces is not in its 3,000 bytes"),
    "not GGUF": (lambda file: file.write_bytes(b"PK" * 3000), "is not in the GGUF format"),
    "empty": (lambda file: file.write_bytes(b""), "is not in the GGUF format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_not_whole_is_refused(hub, tmp_path, name):
    change, message = REFUSED[name]
    file = Path(shutil.copy(hub / "tiny-F32.gguf", tmp_path / "model.gguf"))
    change(file)
    with pytest.raises(StageError, match=rf"baseModel.ggufFile: file://{tmp_path}/model.gguf: {message}"):
        made(tmp_path, f"file://{tmp_path}", "model.gguf")
    assert parameter_count(f"file://{tmp_path}", None, HERE, "model.gguf") is None


def test_an_architecture_that_is_not_read_is_named(tmp_path, model, tokenizer):
    write_gguf(tmp_path / "model.gguf", model, tokenizer, architecture="rwkv6")
    with pytest.raises(StageError, match=r"transformers 5\..*architecture rwkv6.*use its checkpoint in safetensors"):
        made(tmp_path, f"file://{tmp_path}", "model.gguf")


def test_without_the_library_it_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(StageError, match=r"the library gguf.*is not installed; install gguf"):
        made(tmp_path, f"file://{hub}", "tiny-F32.gguf")


def test_a_name_that_is_not_there_is_answered_with_those_that_are(hub, tmp_path):
    message = "there is no tiny.gguf; its GGUF files are tiny-F32.gguf, tiny-Q8_0.gguf"
    with pytest.raises(Exception, match=message):
        made(tmp_path, f"file://{hub}", "tiny.gguf")
    assert resolve_folder(f"file://{hub}", HERE, HashCache(), "tiny.gguf").problem == message


def test_the_fingerprint_is_that_of_the_named_file_alone(hub, tmp_path):
    shutil.copytree(hub, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("other")
    first, second = (
        resolve_folder(f"file://{hub}", HERE, HashCache(), f"tiny-{kind}.gguf") for kind in ("F32", "Q8_0")
    )
    copied = resolve_folder(f"file://{tmp_path}/copy", HERE, HashCache(), "tiny-F32.gguf")
    assert copied == first
    assert (first.files, first.bytes) == (1, (hub / "tiny-F32.gguf").stat().st_size)
    assert first.fingerprint != second.fingerprint
