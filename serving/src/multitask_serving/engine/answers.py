"""What goes into the engine and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multitask_serving.engine.generate import FinishReason, Step


@dataclass(frozen=True, slots=True)
class Request:
    """One question: a task's name and the fields of its prompt (others are ignored)."""

    task: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest label."""

    label: str
    scores: dict[str, float]
    """Each label's share, the softmax of ``log_probs``; they sum to 1."""
    log_probs: dict[str, float]
    """Each label's log probability as the whole answer (its tokens and EOS), in nats."""
    margin: float
    """How far the two likeliest labels lie apart, in nats: the difference of their log probabilities."""
    truncated: bool
    """A field was cut to fit."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    """``eos``: the model ended it; ``stop``: a stop string did; ``length``: the limit of new tokens did."""
    tokens: tuple[int, ...]
    """Every token generated, EOS and those of a stop string included."""
    margins: tuple[float, ...]
    """For each of ``tokens``, how far the two likeliest tokens lay apart there, in nats."""

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Generation:
        """The steps of one row, joined."""
        reason = steps[-1].finish_reason
        if reason is None:
            raise ValueError("the row has not finished")
        return cls(
            text="".join(step.text_delta for step in steps),
            finish_reason=reason,
            tokens=tuple(step.token for step in steps),
            margins=tuple(step.margin for step in steps),
        )
