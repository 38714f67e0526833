"""The small base that knows language: made from a package, it reads and writes English."""

from pathlib import Path

import pytest
import torch

import smollm2
from multitask_trainer.base_model.gguf_file import count_weights, read_gguf


@pytest.mark.integration
def test_continues_a_sentence_with_what_it_knows() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.make()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    told = model.generate(**asked, max_new_tokens=2, do_sample=False)
    assert "Paris" in tokenizer.decode(told[0])
    assert "<|im_start|>user\nWhere?<|im_end|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where?"}], tokenize=False
    )
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.integration
def test_its_gguf_file_is_a_base_with_the_same_weights_and_prompts() -> None:
    """As `baseModel.ggufFile` reads it, quantised to four bits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = smollm2.make(), smollm2.gguf()
    read, tokenizer = read_gguf(file, str(file))
    made, own = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    weights = made.state_dict()
    assert read.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in read.state_dict().items())
    assert count_weights(file) == made.num_parameters()
    text = "The courier rang twice: where's my parcel?\n"
    assert tokenizer(text).input_ids == own(text).input_ids
    assert tokenizer.chat_template == own.chat_template


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(smollm2.WrongModel, match="SHA-256"):
        smollm2.convert(tmp_path / "model.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()
