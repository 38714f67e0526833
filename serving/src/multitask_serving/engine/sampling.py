"""The next token: the likeliest, or drawn from the nucleus."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

from multitask_serving.engine.errors import InvalidSampling


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and limits tighter than the task's own. The default is greedy."""

    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the fewest tokens that have this much probability together (arXiv 1904.09751)."""
    seed: int | None = None
    """The same seed and request give the same text, whatever else is in the batch. None: a new seed each time."""
    max_new_tokens: int | None = None
    """At most this many tokens; the task's own limit holds too."""
    stop: tuple[str, ...] = ()
    """Stop strings besides the task's."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise InvalidSampling(f"temperature is {self.temperature}; it must be from 0 (greedy) to 10")
        if not 0 < self.top_p <= 1:
            raise InvalidSampling(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InvalidSampling(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if any(not stop for stop in self.stop):
            raise InvalidSampling("a stop string is empty; leave it out")

    def draws(self, count: int) -> Tensor:
        """(count,) uniform numbers in [0, 1), fp64, on the CPU: a row's own, so that its batch does not matter."""
        if self.temperature == 0:
            return torch.zeros(count, dtype=torch.float64)
        seed = secrets.randbits(63) if self.seed is None else self.seed % (1 << 63)
        return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


GREEDY = Sampling()


def choose(logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """From logits (B, V) in fp32: the tokens (B,), and how far the two likeliest lie apart (B,) in nats.

    ``temperature``, ``top_p`` and ``draws`` are (B,) fp64. Token k of those sorted by probability is drawn when the
    draw, scaled to the nucleus' mass, falls between the cumulated probabilities of k - 1 and k.
    """
    best = logits.topk(2, dim=-1)
    margins = best.values[:, 0] - best.values[:, 1]
    tokens = best.indices[:, 0].clone()
    rows = torch.nonzero(temperature > 0).squeeze(1)
    if len(rows):
        scaled = logits[rows].double() / temperature[rows, None]
        probabilities, order = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True, stable=True)
        cumulated = probabilities.cumsum(dim=-1)
        kept = (cumulated - probabilities < top_p[rows, None]).sum(dim=-1, keepdim=True)
        mass = cumulated.gather(1, kept - 1)
        drawn = torch.searchsorted(cumulated, draws[rows, None] * mass, right=True)
        tokens[rows] = order.gather(1, torch.minimum(drawn, kept - 1)).squeeze(1)
    return tokens, margins
