"""A causal language model in two parts: the decoder, which gives hidden states, and the head, which gives logits.

With a large vocabulary the head costs more than a small model's layers, so it runs only where logits are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from multitask_serving.engine.errors import InvalidBundle


@dataclass(frozen=True)
class Backbone:
    """``decoder``: token ids (B, S) → hidden states (B, S, H). ``head``: hidden states (…, H) → logits (…, V)."""

    decoder: nn.Module
    head: nn.Module
    uses_boolean_masks: bool
    """Whether attention takes boolean masks, true for "attend"; otherwise it adds a float mask to its scores."""

    @classmethod
    def of(cls, model: nn.Module) -> Backbone:
        """The parts of any ``AutoModelForCausalLM``, wrapped by PEFT or not.

        Raises `InvalidBundle` for a model without a decoder and an output head of its own.
        """
        causal: Any = model
        head: nn.Module | None = causal.get_output_embeddings()
        decoder: nn.Module = causal.get_decoder()
        if head is None or decoder is model:
            raise InvalidBundle(f"{type(model).__name__} is not a causal language model with a separate output head")
        return cls(decoder, head, causal.config._attn_implementation == "sdpa")

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.decoder.parameters()).device

    def attention_mask(self, mask: Tensor) -> Tensor:
        """A boolean mask (B, 1, Q, K), true for "attend", in the form that this model's attention takes."""
        if self.uses_boolean_masks:
            return mask
        dtype = next(self.decoder.parameters()).dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)

    def check(self, model: nn.Module) -> None:
        """Raise `InvalidBundle` if decoder and head together differ from ``model``: some architectures scale logits."""
        input_ids = torch.arange(4, device=self.device)[None]
        with torch.inference_mode():
            expected = model(input_ids=input_ids, use_cache=False).logits
            actual = self.head(self.decoder(input_ids=input_ids, use_cache=False).last_hidden_state)
        if expected.shape != actual.shape or not torch.allclose(expected, actual, rtol=1e-3, atol=1e-3):
            raise InvalidBundle(
                f"{type(model).__name__} changes its logits after the output head, and the engine cannot. "
                "Use a base model of the Llama, Mistral or Qwen family"
            )


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A context without dropout and autograd. A model in training mode returns to it afterwards."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()
