"""A small decoder, for tests of training."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 61


def small_decoder(seed: int = 0, **changes: int) -> LlamaForCausalLM:
    """A randomly initialised Llama-style decoder of 32 wide and 2 layers."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    config = LlamaConfig(**(settings | changes), tie_word_embeddings=True, attn_implementation="sdpa")
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return small_decoder().eval()


@pytest.fixture
def base_folder(tmp_path):
    small_decoder().save_pretrained(tmp_path / "base")
    return tmp_path / "base"
