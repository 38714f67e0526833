"""A causal language model in two parts: the decoder, which gives hidden states, and the head, which gives logits.

With a large vocabulary the head costs more than a small model's layers, so it runs only where logits are needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from multitask_api.bundle import ForwardPath
from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.head import OutputHead
from multitask_serving.engine.model.masks import LayerMasks

_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.03}
"""Largest difference of decoder and head from the model, by dtype of the weights, as a part of the largest logit. A
family may scale before the head what is scaled behind it here: two more roundings, each of 2⁻⁸ in bf16."""
MASKED = ForwardPath()
"""The path of a decoder whose layers all obey an attention mask."""


@dataclass(frozen=True)
class Backbone:
    """``decoder``: token ids (B, S) → hidden states (B, S, H). ``head``: hidden states (…, H) → logits (…, V)."""

    decoder: nn.Module
    head: OutputHead
    path: ForwardPath
    masks: LayerMasks
    arguments: frozenset[str]
    """The names of the arguments that the decoder's forward pass takes."""

    @classmethod
    def of(cls, model: nn.Module, path: ForwardPath | None = None) -> Backbone:
        """The parts of any ``AutoModelForCausalLM``, wrapped by PEFT or not; ``path`` None: `MASKED`.

        Raises `InvalidBundle` for a model without a decoder and an output head of its own.
        """
        causal: Any = model
        head: nn.Module | None = causal.get_output_embeddings()
        decoder = _decoder(causal)
        if head is None or decoder is None:
            raise InvalidBundle(f"{type(model).__name__} is not a causal language model with a separate output head")
        config = causal.config.get_text_config()
        return cls(
            decoder,
            OutputHead.of(head, config, (path or MASKED).logits_scaling),
            path or MASKED,
            LayerMasks.of(config),
            frozenset(inspect.signature(decoder.forward).parameters),
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.decoder.parameters()).device

    def hidden_states(
        self, input_ids: Tensor, position_ids: Tensor, mask: Tensor | None = None, **attention: Any
    ) -> Tensor:
        """The last layer's output (B, S, H) for whole sequences, ``input_ids`` and ``position_ids`` (B, S).

        ``mask`` (B, 1, S, S) is true for "attend"; None for plain causal attention. Needs the isolation ``Masks``.
        ``attention`` goes through all layers to the function that computes their attention.
        """
        arguments: dict[str, Any] = {"input_ids": input_ids, "position_ids": position_ids}
        if mask is not None:
            dtype = next(self.decoder.parameters()).dtype
            arguments["attention_mask"] = self.masks.of_layers(mask, position_ids, position_ids, dtype)
        arguments = self._taken(**arguments, use_cache=False)
        return self.decoder(**arguments, **attention).last_hidden_state  # type: ignore[no-any-return]

    def run(self, **arguments: Any) -> Any:
        """One forward pass of the decoder with those of ``arguments`` that it takes; what transformers returns."""
        return self.decoder(**self._taken(**arguments))

    def _taken(self, **arguments: Any) -> dict[str, Any]:
        """Those that the decoder takes by name."""
        return {name: value for name, value in arguments.items() if name in self.arguments}

    def weights_outside(self, model: nn.Module) -> list[nn.Parameter]:
        """What of ``model`` no row of text reaches, such as the vision tower of a multimodal model."""
        reached = {id(value) for part in (self.decoder, self.head.linear) for value in part.parameters()}
        return [value for value in model.parameters() if id(value) not in reached]

    def check(self, model: nn.Module) -> None:
        """Raise `InvalidBundle` if decoder and head together differ from ``model``."""
        input_ids = torch.arange(4, device=self.device)[None]
        with torch.inference_mode():
            expected = model(input_ids=input_ids, use_cache=False).logits.float()
            actual = self.head(self.run(input_ids=input_ids, use_cache=False).last_hidden_state).float()
        tolerance = _TOLERANCES[next(self.decoder.parameters()).dtype] * expected.abs().max()
        if expected.shape != actual.shape or not (expected - actual).abs().max() <= tolerance:  # also if it is NaN
            raise InvalidBundle(
                f"{type(model).__name__} changes its logits after the output head in a way that is not known here. "
                "Use another base model"
            )


def _decoder(causal: Any) -> nn.Module | None:
    """The decoder of a causal language model, wrapped by PEFT or not; None if it has none of its own."""
    decoder: Any = causal.get_decoder()
    if not hasattr(decoder, "get_output_embeddings"):
        # What ModernBERT calls its decoder is the output layer.
        model = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
        decoder = model.base_model
    # Some models give themselves; then it is their attribute ``model``. Through PEFT, the answer is the wrapped model
    # and not ``causal`` itself.
    if hasattr(decoder, "get_output_embeddings") and decoder.get_output_embeddings() is not None:
        decoder = getattr(decoder, "model", None)
    return decoder if isinstance(decoder, nn.Module) else None


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
