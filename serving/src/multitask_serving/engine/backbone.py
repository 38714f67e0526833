"""A causal language model taken apart: the layers that give hidden states, and the head that gives logits.

The head over a large vocabulary costs more than a small model's layers, so it runs only where logits are read.
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
    """``decoder``: ids (B, S) → ``last_hidden_state`` (B, S, H). ``head``: hidden states (…, H) → logits (…, V)."""

    decoder: nn.Module
    head: nn.Module
    bool_masks: bool
    """Whether attention takes masks that say true for "attend"; otherwise masks are added to the scores."""

    @classmethod
    def of(cls, model: nn.Module) -> Backbone:
        """The parts of any ``AutoModelForCausalLM``, also one that PEFT has wrapped."""
        causal: Any = model
        head: nn.Module | None = causal.get_output_embeddings()
        decoder: nn.Module = causal.get_decoder()
        if head is None or decoder is model:
            raise InvalidBundle(f"{type(model).__name__} is not a causal language model with a separate output head")
        return cls(decoder, head, causal.config._attn_implementation == "sdpa")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.decoder.parameters()).device

    def attention_mask(self, allowed: Tensor) -> Tensor:
        """(B, 1, Q, K) bool, true for "attend", in the form this model's attention takes."""
        if self.bool_masks:
            return allowed
        dtype = next(self.decoder.parameters()).dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(dtype).min
        )

    def check(self, model: nn.Module) -> None:
        """Raise `InvalidBundle` if the parts do not compute what the whole does: some architectures scale logits."""
        ids = torch.arange(4, device=self.device)[None]
        with torch.inference_mode():
            whole = model(input_ids=ids, use_cache=False).logits
            parts = self.head(self.decoder(input_ids=ids, use_cache=False).last_hidden_state)
        if whole.shape != parts.shape or not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3):
            raise InvalidBundle(
                f"{type(model).__name__} changes its logits after the output head, which the engine does not do. "
                "Use a base model of the Llama, Mistral or Qwen kind"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout and autograd off inside; a model in training is put back into training afterwards."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()
