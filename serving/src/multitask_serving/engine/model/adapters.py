"""Puts adapters on a loaded model, chosen per row, or adds one to its weights.

An adapter names what it changes by the path in the loaded model: a linear layer's module, or the stacked weights of a
mixture-of-experts module (a parameter). Nothing else is known about the family of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.lora import RowLoraExperts, RowLoraLinear, expert_delta

LoraWeights = Mapping[str, tuple[Tensor, Tensor]]
"""One adapter: path → A and B, both fp32, the scaling folded into B. A linear layer has A (rank, in) and B (out, rank);
stacked weights of E experts have A (E, rank, in) and B (E, out, rank)."""


def linear_features(layer: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear layer: nn.Linear, or transformers' Conv1D, whose weight is (in, out); None for others."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    return None


def attach_adapters(model: nn.Module, adapters: Sequence[LoraWeights], active: ActiveAdapters) -> None:
    """Wrap, in place, each layer that one of ``adapters`` changes; ``adapters[i]`` gets number i + 1.

    Raises `InvalidBundle` for a path that the decoder cannot adapt, or weights that do not fit the layer.
    """
    experts: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for path in dict.fromkeys(path for weights in adapters for path in weights):
        layer, parameter = _resolve(model, path)
        a, b = _stack(path, layer, parameter, adapters)
        if parameter is None:
            _replace(model, path, RowLoraLinear(layer, a, b, active))
        else:
            experts.setdefault(path.rpartition(".")[0], {})[path.rpartition(".")[2]] = (a, b)
    for path, stacked in experts.items():
        _replace(model, path, RowLoraExperts(model.get_submodule(path), stacked, active))


def add_to_weights(model: nn.Module, weights: LoraWeights) -> None:
    """Merge one adapter: W + B A, in place, in the precision of the model. Raises `InvalidBundle`."""
    with torch.no_grad():
        for path, (a, b) in weights.items():
            layer, parameter = _resolve(model, path)
            _check_shapes(path, layer, parameter, a, b)
            if parameter is not None:
                parameter.add_(expert_delta(layer, a, b))
                continue
            weight = layer.get_parameter("weight")
            delta = b @ a
            weight.add_(delta if isinstance(layer, nn.Linear) else delta.T)


def _resolve(model: nn.Module, path: str) -> tuple[nn.Module, nn.Parameter | None]:
    """The linear layer at ``path``; or the module that has the stacked weights at ``path``, and these."""
    parent, _, name = path.rpartition(".")
    try:
        layer: nn.Module | nn.Parameter = getattr(model.get_submodule(parent), name)
    except AttributeError as error:
        raise InvalidBundle(f"an adapter changes {path!r}, which the model does not have") from error
    if isinstance(layer, nn.Parameter) and layer.ndim == 3:
        return model.get_submodule(parent), layer
    head = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(layer, nn.Module) or linear_features(layer) is None or layer is head:
        raise InvalidBundle(
            f"an adapter changes {path!r}; only linear layers and stacked expert weights below the output head can be "
            "adapted"
        )
    return layer, None


def _shapes(layer: nn.Module, parameter: nn.Parameter | None) -> tuple[tuple[int, ...], int, int]:
    """Leading sizes (the experts), in and out."""
    if parameter is None:
        inside, outside = linear_features(layer) or (0, 0)
        return (), inside, outside
    experts, outside, inside = parameter.shape
    return (experts,), *((outside, inside) if getattr(layer, "is_transposed", False) else (inside, outside))


def _check_shapes(path: str, layer: nn.Module, parameter: nn.Parameter | None, a: Tensor, b: Tensor) -> None:
    lead, inside, outside = _shapes(layer, parameter)
    r = a.shape[-2] if a.ndim > 1 else 0
    if a.shape != (*lead, r, inside) or b.shape != (*lead, outside, r):
        takes = ["".join(f"{size}, " for size in lead) + text for text in (f"r, {inside}", f"{outside}, r")]
        raise InvalidBundle(
            f"an adapter's {path!r} has A {tuple(a.shape)} and B {tuple(b.shape)}; "
            f"the layer takes ({takes[0]}) and ({takes[1]})"
        )


def _stack(
    path: str, layer: nn.Module, parameter: nn.Parameter | None, adapters: Sequence[LoraWeights]
) -> tuple[Tensor, Tensor]:
    lead, inside, outside = _shapes(layer, parameter)
    rank = max(weights[path][0].shape[-2] for weights in adapters if path in weights)
    a = torch.zeros(len(adapters) + 1, *lead, rank, inside)
    b = torch.zeros(len(adapters) + 1, *lead, outside, rank)
    for number, weights in enumerate(adapters, start=1):
        if path not in weights:
            continue
        down, up = weights[path]
        _check_shapes(path, layer, parameter, down, up)
        r = down.shape[-2]
        a[number, ..., :r, :] = down
        b[number, ..., :, :r] = up
    like = layer.get_parameter("weight") if parameter is None else parameter
    return a.to(like), b.to(like)


def _replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
