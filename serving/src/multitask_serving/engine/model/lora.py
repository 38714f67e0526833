"""LoRA adapters (arXiv 2106.09685) of many tasks on one layer, chosen per row.

A layer computes ``W x + B_i (A_i x)``, where i is the row's adapter and the scaling is folded into B. Adapters are
stacked and padded with zeros to the largest rank; a batch with different adapters reads them in place, see
``active_adapters``. Number 0 is "no adapter" (zeros).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from multitask_serving.engine.model.active_adapters import ActiveAdapters, PaddedRows


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
        batch = self.active.batch
        inputs, outputs = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        tokens = len(inputs) // len(batch.numbers)
        padded = batch.padded_for(tokens, self.A.shape[1], inputs.shape[1] + outputs.shape[1])
        if padded is not None:
            self._add_padded(inputs, outputs, tokens, padded)
            return outputs.reshape(y.shape)
        for first, last, number in batch.runs:
            if number:
                rows = slice(first * tokens, last * tokens)
                outputs[rows].addmm_(inputs[rows] @ self.A[number].T, self.B[number].T)
        return outputs.reshape(y.shape)

    def _add_padded(self, inputs: Tensor, outputs: Tensor, tokens: int, padded: PaddedRows) -> None:
        a, b = self.A[padded.numbers], self.B[padded.numbers]
        in_slots = inputs.reshape(-1, tokens, inputs.shape[1])[padded.rows].reshape(len(a), -1, inputs.shape[1])
        deltas = torch.bmm(torch.bmm(in_slots, a.transpose(1, 2)), b.transpose(1, 2))
        of_rows = deltas.reshape(-1, tokens * outputs.shape[1])[padded.slots]
        outputs[padded.first_row * tokens :].add_(of_rows.reshape(-1, outputs.shape[1]))


class RowLoraExperts(nn.Module):
    """A mixture-of-experts module whose stacked weights (E, out, in) have n adapters each.

    ``adapters`` maps the name of a weight to A (n + 1, E, r, in) and B (n + 1, E, out, r). The module is called with
    all tokens, first a row's, then the next row's, as its first argument and, aligned with them, the experts chosen and
    their weights. Which expert takes a token differs from token to token, so there is no product to share: the weights
    with the delta of one adapter are made for the time of the call, once for each run of rows with one adapter.
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
        batch = self.active.batch
        tokens = len(hidden) // len(batch.numbers)
        parts = []
        for first, last, number in batch.runs:
            rows = slice(first * tokens, last * tokens)
            parts.append(self._run(number, hidden[rows], tuple(each[rows] for each in routing)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

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
