"""LoRA adapters (arXiv 2106.09685) of many tasks on one linear layer, chosen per row.

A layer computes ``W x + B_i (A_i x)``, where i is the row's adapter and the scaling is folded into B. Adapters are
stacked and padded with zeros to the largest rank, so a batch with different adapters costs one gather and two batched
matrix products per layer. Number 0 is "no adapter" (zeros).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from multitask_serving.engine.errors import InvalidBundle

LoraWeights = Mapping[str, tuple[Tensor, Tensor]]
"""One adapter: module path → A (rank, in) and B (out, rank), both fp32, the scaling folded into B."""


class ActiveAdapters:
    """The adapter numbers of the rows of the current batch. Each loaded model has one, shared by its layers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.shared: int | None = 0
        """The adapter number of all rows; None if the rows differ."""
        self.per_row: Tensor | None = None
        """(B,) the rows' adapter numbers if they differ."""

    @contextmanager
    def use(self, numbers: Sequence[int]) -> Iterator[None]:
        """A context in which row i of every forward pass uses adapter ``numbers[i]``; outside, no adapter is used."""
        if len(set(numbers)) == 1:
            self.shared = numbers[0]
        else:
            self.shared = None
            self.per_row = torch.tensor(numbers, device=self._device)
        try:
            yield
        finally:
            self.shared, self.per_row = 0, None


class RowLoraLinear(nn.Module):
    """A linear layer with n stacked adapters: A (n + 1, r, in), B (n + 1, out, r)."""

    A: Tensor
    B: Tensor

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, active: ActiveAdapters) -> None:
        super().__init__()
        self.base = base
        self.active = active
        self.register_buffer("A", a, persistent=False)
        self.register_buffer("B", b, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, in) → (B, S, out)."""
        y: Tensor = self.base(x)
        if self.active.shared == 0:
            return y
        if self.active.shared is not None:
            number = self.active.shared
            return y + functional.linear(functional.linear(x, self.A[number]), self.B[number])
        a, b = self.A[self.active.per_row], self.B[self.active.per_row]
        return torch.baddbmm(y, torch.bmm(x, a.transpose(1, 2)), b.transpose(1, 2))


def attach_adapters(model: nn.Module, adapters: Sequence[LoraWeights], active: ActiveAdapters) -> None:
    """Replace, in place, each linear layer that one of ``adapters`` changes; ``adapters[i]`` gets number i + 1.

    Raises `InvalidBundle` for a path that is not a linear layer of the decoder, or weights that do not fit the layer.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    for path in dict.fromkeys(path for weights in adapters for path in weights):
        try:
            layer = model.get_submodule(path)
        except AttributeError as error:
            raise InvalidBundle(f"an adapter changes {path!r}, which the model does not have") from error
        if not isinstance(layer, nn.Linear) or layer is head:
            raise InvalidBundle(f"an adapter changes {path!r}; only linear layers below the output head can be adapted")
        a, b = _stack(path, layer, adapters)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, RowLoraLinear(layer, a, b, active))


def _stack(path: str, layer: nn.Linear, adapters: Sequence[LoraWeights]) -> tuple[Tensor, Tensor]:
    rank = max(weights[path][0].shape[0] for weights in adapters if path in weights)
    a = torch.zeros(len(adapters) + 1, rank, layer.in_features)
    b = torch.zeros(len(adapters) + 1, layer.out_features, rank)
    for number, weights in enumerate(adapters, start=1):
        if path not in weights:
            continue
        down, up = weights[path]
        r = down.shape[0]
        if down.shape != (r, layer.in_features) or up.shape != (layer.out_features, r):
            raise InvalidBundle(
                f"an adapter's {path!r} has A {tuple(down.shape)} and B {tuple(up.shape)}; "
                f"the layer takes (r, {layer.in_features}) and ({layer.out_features}, r)"
            )
        a[number, :r] = down
        b[number, :, :r] = up
    return a.to(layer.weight), b.to(layer.weight)
