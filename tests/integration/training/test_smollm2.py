"""The small base that knows language: made from a package, it reads and writes English."""

from pathlib import Path

import pytest

import smollm2


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


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(smollm2.WrongModel, match="SHA-256"):
        smollm2.convert(tmp_path / "model.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()
