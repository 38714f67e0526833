"""A small decoder, for tests of training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import LlamaForCausalLM

from support.training_fixtures import small_decoder


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return small_decoder().eval()


@pytest.fixture
def base_folder(tmp_path):
    small_decoder().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(scope="module")
def uncompiled() -> Iterator[None]:
    """bitsandbytes compiles some of its operators for a CPU, once for each shape."""
    with torch.compiler.set_stance("force_eager"):
        yield
