"""The output head of a causal language model, with what its family does to the logits after it.

Families multiply or divide the logits by a constant (Cohere, Falcon-H1; Granite, MiniCPM) or cap them smoothly
(Gemma 2: c · tanh(logits / c)); the constants stand in their configurations. By ``logits_scaling`` most divide and
HyperCLOVA X multiplies: which it is for a model is found by testing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere; Falcon-H1; Muse
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma; RecurrentGemma; xLSTM


@dataclass(frozen=True)
class OutputHead:
    """Hidden states (…, H) → logits (…, V): cap(scale · head(x))."""

    linear: nn.Module
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, linear: nn.Module, config: PreTrainedConfig, logits_scaling: str | None = None) -> OutputHead:
        """``linear`` with the constants of ``config``, the text decoder's; ``logits_scaling`` as in `ForwardPath`."""
        cap = next(filter(None, (_number(config, name) for name in _CAPS)), None)
        return cls(linear, _scale(config, logits_scaling), cap)

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return int(self.linear.weight.shape[0])  # type: ignore[index]

    def __call__(self, hidden: Tensor) -> Tensor:
        """The logits of ``hidden``; the states of some families are fp32 whatever the weights are."""
        weight: Tensor = self.linear.weight  # type: ignore[assignment]
        logits: Tensor = self.linear(hidden.to(weight.dtype))
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _scale(config: PreTrainedConfig, logits_scaling: str | None) -> float:
    """The factor between the head's output and the logits: every known field, each in its own meaning."""
    scale = _number(config, "logits_scaling") or 1.0
    factor = scale if logits_scaling == "Multiplies" else 1 / scale
    for name in _FACTORS:
        factor *= _number(config, name) or 1.0
    return factor


def _number(config: PreTrainedConfig, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else None
