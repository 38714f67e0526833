"""The output head of a causal language model, with what its family does to the logits after it.

Families multiply the logits by a constant (Granite, Cohere, Falcon-H1, MiniCPM) or cap them smoothly (Gemma 2:
c · tanh(logits / c)); the constants stand in their configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class OutputHead:
    """Hidden states (…, H) → logits (…, V): cap(scale · head(x))."""

    linear: nn.Module
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, linear: nn.Module, config: PreTrainedConfig) -> OutputHead:
        """``linear`` with the constants of ``config``, the text decoder's."""
        cap = _number(config, "final_logit_softcapping") or _number(config, "logits_soft_cap")  # Gemma; RecurrentGemma
        return cls(linear, _scale(config), cap)

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return int(self.linear.weight.shape[0])  # type: ignore[index]

    def __call__(self, hidden: Tensor) -> Tensor:
        """The logits of ``hidden``."""
        logits: Tensor = self.linear(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _scale(config: PreTrainedConfig) -> float:
    """The factor between the head's output and the logits: every known field, each in its own meaning."""
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "output_multiplier"):  # Cohere; Falcon-H1; Muse
        scale *= _number(config, name) or 1.0
    return scale / (_number(config, "logits_scaling") or 1.0)  # Granite, MiniCPM


def _number(config: PreTrainedConfig, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else None
