"""Where each expert's ranks lie in the stacked factors of a layer, what the gate gives them, and a task's own LoRA.

The A's of all experts are one matrix (ranks, in) and the B's one matrix (out, ranks): first the ranks of the common
experts, then those of the first task's experts, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class ExpertLayout:
    """m_c common experts and m_s of each of T tasks, all of rank r_e."""

    tasks: int
    common: int
    specific: int
    rank: int

    @property
    def per_task(self) -> int:
        """m_c + m_s: the experts that one task uses, and that its gate weighs."""
        return self.common + self.specific

    @property
    def ranks(self) -> int:
        """(m_c + T · m_s) · r_e: of all experts together."""
        return (self.common + self.tasks * self.specific) * self.rank

    @property
    def ranks_per_task(self) -> int:
        """(m_c + m_s) · r_e: the rank of a task's delta."""
        return self.per_task * self.rank

    def owners(self, device: torch.device) -> Tensor:
        """(ranks,) int64: the task that a rank belongs to; T for those of common experts."""
        common = torch.full((self.common,), self.tasks, device=device)
        specific = torch.arange(self.tasks, device=device).repeat_interleave(self.specific)
        return torch.cat([common, specific]).repeat_interleave(self.rank)

    def gates(self, device: torch.device) -> Tensor:
        """(ranks,) int64: which of the m_c + m_s weights of a task's gate applies to a rank."""
        gates = torch.arange(self.per_task, device=device)
        specific = gates[self.common :].repeat(self.tasks)
        return torch.cat([gates[: self.common], specific]).repeat_interleave(self.rank)

    def of_task(self, task: int, device: torch.device) -> Tensor:
        """((m_c + m_s) · r_e,) int64: the ranks of the common experts and those of ``task``."""
        owners = self.owners(device)
        return ((owners == self.tasks) | (owners == task)).nonzero()[:, 0]


def gate_weights(embedding: Tensor, gates: Tensor) -> Tensor:
    """ω = softmax(W_g e_k): embedding (T, d), gates W_g (…, m_c + m_s, d) → (…, T, m_c + m_s), in fp32 or wider."""
    with torch.autocast(embedding.device.type, enabled=False):
        return (_wide(embedding) @ _wide(gates).transpose(-1, -2)).softmax(-1)


def spread(weights: Tensor, layout: ExpertLayout) -> Tensor:
    """The weight of each rank for each task: (…, T, m_c + m_s) → (…, T, ranks), zero for experts of other tasks.

    A product with constants: its gradient needs no scattered sum.
    """
    device = weights.device
    placed = functional.one_hot(layout.gates(device), layout.per_task).T.to(weights.dtype)
    owners = layout.owners(device)
    used = (owners == layout.tasks) | (owners == torch.arange(layout.tasks, device=device)[:, None])
    with torch.autocast(device.type, enabled=False):
        return weights @ placed * used.to(weights.dtype)


def collapse(a: Tensor, b: Tensor, weights: Tensor, layout: ExpertLayout, task: int) -> tuple[Tensor, Tensor]:
    """The LoRA that is the delta of ``task``, without α / r: A' ((m_c + m_s) · r_e, in) and B' (out, the same), fp32.

    ``a`` is (ranks, in), ``b`` (out, ranks), ``weights`` ω^k (m_c + m_s,). A' stacks the A's of the common experts and
    of the task's own, B' their B's, each times its weight.
    """
    ranks = layout.of_task(task, a.device)
    of_ranks = weights[layout.gates(a.device)[ranks]]
    return _wide(a)[ranks].contiguous(), (_wide(b)[:, ranks] * _wide(of_ranks)).contiguous()


def _wide(value: Tensor) -> Tensor:
    """In fp32, or in fp64 if it is that."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
