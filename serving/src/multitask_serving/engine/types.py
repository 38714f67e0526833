"""The engine's requests and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multitask_serving.engine.generation.decoding import FinishReason, Step


@dataclass(frozen=True, slots=True)
class Request:
    """A task's name and the fields of its prompt. Fields that the prompt does not use are ignored."""

    task: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PromptLength:
    """How long the prompt of a request is."""

    tokens: int
    truncated: bool
    """Whether a field was cut to fit the maximum length."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The result of a classification request."""

    label: str
    """The most probable label."""
    scores: dict[str, float]
    """Each label's normalised probability: the softmax of ``log_probs``."""
    log_probs: dict[str, float]
    """Each label's log probability as the complete answer (its tokens and EOS), in nats."""
    margin: float
    """The difference between the log probabilities of the two most probable labels, in nats."""
    truncated: bool
    """Whether a field was cut to fit the maximum length."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of a generation request."""

    text: str
    finish_reason: FinishReason
    """What ended the text. ``eos``: the model; ``stop``: a stop string; ``length``: the limit of new tokens."""
    tokens: tuple[int, ...]
    """Every generated token id, including EOS and the tokens of a stop string."""
    margins: tuple[float, ...]
    """For each of ``tokens``, the log-probability gap between the two most probable tokens, in nats."""

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Generation:
        """Join all steps of one row. Raises ValueError if the last step is missing."""
        reason = steps[-1].finish_reason
        if reason is None:
            raise ValueError("the row has not finished")
        return cls(
            text="".join(step.text_delta for step in steps),
            finish_reason=reason,
            tokens=tuple(step.token for step in steps),
            margins=tuple(step.margin for step in steps),
        )
