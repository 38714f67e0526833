"""LoRA adapters (arXiv 2106.09685) of many tasks on one layer, chosen per row.

A layer computes ``W x + B_i (A_i x)``, where i is the row's adapter and the scaling is folded into B. Adapters are
stacked and padded with zeros to the largest rank, so a batch with different adapters costs one gather and two batched
matrix products per linear layer. Number 0 is "no adapter" (zeros).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


class ActiveAdapters:
    """The adapter numbers of the rows of the current batch. Each loaded model has one, shared by its layers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.shared: int | None = 0
        """The adapter number of all rows; None if the rows differ."""
        self.numbers: tuple[int, ...] = ()
        """The rows' adapter numbers if they differ."""
        self.per_row = torch.empty(0, dtype=torch.int64)
        """(B,) the same, on the device."""

    @contextmanager
    def use(self, numbers: Sequence[int]) -> Iterator[None]:
        """A context in which row i of every forward pass uses adapter ``numbers[i]``; outside, no adapter is used."""
        if len(set(numbers)) == 1:
            self.shared = numbers[0]
        else:
            self.shared = None
            self.numbers = tuple(numbers)
            self.per_row = torch.tensor(numbers, device=self._device)
        try:
            yield
        finally:
            self.shared, self.numbers = 0, ()


class RowLoraLinear(nn.Module):
    """A linear layer (nn.Linear, or transformers' Conv1D) with n adapters: A (n + 1, r, in), B (n + 1, out, r)."""

    A: Tensor
    B: Tensor

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, active: ActiveAdapters) -> None:
        super().__init__()
        self.base = base
        self.active = active
        self.register_buffer("A", a, persistent=False)
        self.register_buffer("B", b, persistent=False)

    @property
    def weight(self) -> Tensor:
        """That of the layer itself: some families look at its dtype before they call the layer."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> Tensor | None:
        """That of the layer itself."""
        bias: Tensor | None = self.base.bias  # type: ignore[assignment]
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, …, in) → (B, …, out), or (B·S, in) → (B·S, out) where a model joins rows; a row's tokens are together."""
        y: Tensor = self.base(x)
        if self.active.shared == 0:
            return y
        if self.active.shared is not None:
            number = self.active.shared
            return y + functional.linear(functional.linear(x, self.A[number]), self.B[number])
        rows = len(self.active.numbers)
        a, b = self.A[self.active.per_row], self.B[self.active.per_row]
        by_row = torch.bmm(x.reshape(rows, -1, x.shape[-1]), a.transpose(1, 2))
        return torch.baddbmm(y.reshape(rows, -1, y.shape[-1]), by_row, b.transpose(1, 2)).reshape(y.shape)


class RowLoraExperts(nn.Module):
    """A mixture-of-experts module whose stacked weights (E, out, in) have n adapters each.

    ``adapters`` maps the name of a weight to A (n + 1, E, r, in) and B (n + 1, E, out, r). The module is called with
    all tokens, first a row's, then the next row's, as its first argument and, aligned with them, the experts chosen and
    their weights. Which expert takes a token differs from token to token, so there is no product to share: the weights
    with the delta of one adapter are made for the time of the call, once for each adapter that the batch uses.
    """

    def __init__(self, base: nn.Module, adapters: Mapping[str, tuple[Tensor, Tensor]], active: ActiveAdapters) -> None:
        super().__init__()
        self.base = base
        self.active = active
        self.names = tuple(adapters)
        for name, (a, b) in adapters.items():
            self.register_buffer(f"{name}_A", a, persistent=False)
            self.register_buffer(f"{name}_B", b, persistent=False)

    def forward(self, hidden: Tensor, *routing: Tensor) -> Tensor:
        """(T, in) and what the router gave, (T, k) each → (T, in)."""
        if self.active.shared is not None:
            return self._run(self.active.shared, hidden, routing)
        numbers = self.active.numbers
        per_token = self.active.per_row.repeat_interleave(len(hidden) // len(numbers))
        parts = []
        for number in sorted(set(numbers)):
            tokens = (per_token == number).nonzero()[:, 0]
            parts.append((tokens, self._run(number, hidden[tokens], tuple(each[tokens] for each in routing))))
        out = torch.empty_like(hidden)
        for tokens, part in parts:
            out[tokens] = part
        return out

    def _run(self, number: int, hidden: Tensor, routing: tuple[Tensor, ...]) -> Tensor:
        if number == 0:
            result: Tensor = self.base(hidden, *routing)
            return result
        weights = {
            name: self.base.get_parameter(name)
            + expert_delta(self.base, getattr(self, f"{name}_A")[number], getattr(self, f"{name}_B")[number])
            for name in self.names
        }
        changed: Tensor = torch.func.functional_call(self.base, weights, (hidden, *routing))
        return changed


def expert_delta(experts: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """B A of each expert, in the layout of the module's weights: A (E, r, in), B (E, out, r) → (E, out, in).

    Some families store (E, in, out) and say so by ``is_transposed``, as transformers does.
    """
    delta = torch.bmm(b, a)
    return delta.transpose(1, 2) if getattr(experts, "is_transposed", False) else delta
