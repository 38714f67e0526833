"""Low-rank adapters of many tasks on one linear layer, chosen per row.

A layer computes ``W x + B_i (A_i x)`` where i is the row's adapter and the scaling is folded into B. Adapters are
stacked, padded with zeros to the largest rank, so a batch of rows with different adapters costs one gather and two
batched matrix products a layer. Number 0 is "no adapter" (zeros).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from multitask_serving.engine.errors import InvalidBundle

Delta = Mapping[str, tuple[Tensor, Tensor]]
"""Module path → A (rank, in), B (out, rank) with the scaling in it, both fp32."""


class AdapterIndex:
    """Which adapter each row of the batch now running takes; one per loaded model, shared by its layers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.uniform: int | None = 0
        """The one adapter of all rows; None when they differ."""
        self.rows: Tensor | None = None
        """(B,) adapter numbers when they differ."""

    @contextmanager
    def use(self, numbers: Sequence[int]) -> Iterator[None]:
        """Inside, row i of every forward pass takes adapter ``numbers[i]``. Outside, no row has an adapter."""
        if len(set(numbers)) == 1:
            self.uniform = numbers[0]
        else:
            self.uniform = None
            self.rows = torch.tensor(numbers, device=self._device)
        try:
            yield
        finally:
            self.uniform, self.rows = 0, None


class RowLoraLinear(nn.Module):
    """A linear layer with n stacked adapters: A (n + 1, r, in), B (n + 1, out, r)."""

    A: Tensor
    B: Tensor

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, index: AdapterIndex) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self.register_buffer("A", a, persistent=False)
        self.register_buffer("B", b, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, in) → (B, S, out)."""
        y: Tensor = self.base(x)
        if self.index.uniform == 0:
            return y
        if self.index.uniform is not None:
            number = self.index.uniform
            return y + functional.linear(functional.linear(x, self.A[number]), self.B[number])
        a, b = self.A[self.index.rows], self.B[self.index.rows]
        return torch.baddbmm(y, torch.bmm(x, a.transpose(1, 2)), b.transpose(1, 2))


def attach(model: nn.Module, deltas: Sequence[Delta], index: AdapterIndex) -> None:
    """Wrap, in place, each linear layer that any of ``deltas`` adapts; delta i becomes adapter i + 1.

    Raises `InvalidBundle` for a path that is not a linear layer of the decoder, or a delta that does not fit it.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    for path in dict.fromkeys(path for delta in deltas for path in delta):
        try:
            layer = model.get_submodule(path)
        except AttributeError as error:
            raise InvalidBundle(f"an adapter changes {path!r}, which the model does not have") from error
        if not isinstance(layer, nn.Linear) or layer is head:
            raise InvalidBundle(f"an adapter changes {path!r}; only linear layers below the output head can be adapted")
        a, b = _stack(path, layer, deltas)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, RowLoraLinear(layer, a, b, index))


def _stack(path: str, layer: nn.Linear, deltas: Sequence[Delta]) -> tuple[Tensor, Tensor]:
    rank = max(delta[path][0].shape[0] for delta in deltas if path in delta)
    a = torch.zeros(len(deltas) + 1, rank, layer.in_features)
    b = torch.zeros(len(deltas) + 1, layer.out_features, rank)
    for number, delta in enumerate(deltas, start=1):
        if path not in delta:
            continue
        down, up = delta[path]
        r = down.shape[0]
        if down.shape != (r, layer.in_features) or up.shape != (layer.out_features, r):
            raise InvalidBundle(
                f"an adapter's {path!r} has A {tuple(down.shape)} and B {tuple(up.shape)}; "
                f"the layer takes (r, {layer.in_features}) and ({layer.out_features}, r)"
            )
        a[number, :r] = down
        b[number, :, :r] = up
    return a.to(layer.weight), b.to(layer.weight)
