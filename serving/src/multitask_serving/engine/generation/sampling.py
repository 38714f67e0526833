"""Chooses the next token: greedily, or by temperature and nucleus (top-p) sampling."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

from multitask_serving.engine.errors import InvalidSampling


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and limits in addition to the task's own. The default is greedy decoding.

    Raises `InvalidSampling` for a value out of range.
    """

    temperature: float = 0.0
    """0 is greedy: the most probable token."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this total probability (nucleus sampling, arXiv 1904.09751)."""
    seed: int | None = None
    """The same seed and request give the same text, whatever else is in the batch. None: a new seed each time."""
    max_new_tokens: int | None = None
    """At most this many new tokens; the task's own limit also applies."""
    stop: tuple[str, ...] = ()
    """Stop strings in addition to the task's."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise InvalidSampling(f"temperature is {self.temperature}; it must be from 0 (greedy) to 10")
        if not 0 < self.top_p <= 1:
            raise InvalidSampling(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InvalidSampling(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if any(not stop for stop in self.stop):
            raise InvalidSampling("a stop string is empty; leave it out")

    def uniform_samples(self, count: int) -> Tensor:
        """(count,) uniform numbers in [0, 1), fp64 on the CPU. They depend on the seed alone, not on the batch."""
        if self.temperature == 0:
            return torch.zeros(count, dtype=torch.float64)
        seed = secrets.randbits(63) if self.seed is None else self.seed % (1 << 63)
        return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


GREEDY = Sampling()


def sample_next_token(
    logits: Tensor, temperature: Tensor, top_p: Tensor, uniform_samples: Tensor
) -> tuple[Tensor, Tensor]:
    """From logits (B, V) in fp32: the token ids (B,), and the margins (B,) between the two most probable, in nats.

    ``temperature``, ``top_p`` and ``uniform_samples`` are (B,) in fp64. Rows of temperature 0 are greedy; the others
    use inverse transform sampling over the nucleus of `Sampling.top_p` (arXiv 1904.09751).
    """
    best = logits.topk(2, dim=-1)
    margins = best.values[:, 0] - best.values[:, 1]
    tokens = best.indices[:, 0].clone()
    rows = torch.nonzero(temperature > 0).squeeze(1)
    if len(rows):
        scaled = logits[rows].double() / temperature[rows, None]
        probabilities, order = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True, stable=True)
        cumulative = probabilities.cumsum(dim=-1)
        nucleus_size = (cumulative - probabilities < top_p[rows, None]).sum(dim=-1, keepdim=True)
        mass = cumulative.gather(1, nucleus_size - 1)
        sampled = torch.searchsorted(cumulative, uniform_samples[rows, None] * mass, right=True)
        tokens[rows] = order.gather(1, torch.minimum(sampled, nucleus_size - 1)).squeeze(1)
    return tokens, margins
