"""Whole tensors and their parts: DTensors, of which each process holds a slice along the first dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def copy_whole(target: Tensor, whole: Tensor) -> None:
    """Put the whole tensor into ``target``, which holds all of it or a part; no process waits for another."""
    with torch.no_grad():
        target.copy_(_like(whole, target))


def load_whole_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """`Optimizer.load_state_dict` with whole tensors, also where the optimizer's parameters are parts."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    of_parameters = {
        index: {
            name: _like(value, parameters[index]) if getattr(value, "shape", None) == parameters[index].shape else value
            for name, value in of_parameter.items()
        }
        for index, of_parameter in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": of_parameters})


def gather_weights(model: nn.Module, *, keep: bool) -> None:
    """Make the parameters of ``model`` whole again, on the CPU, one after the other; all processes call it.

    Only where ``keep`` is true; the others' parameters stay parts. The model cannot be trained afterwards.
    """
    whole: dict[nn.Parameter, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if not isinstance(value, DTensor):
                continue
            if value not in whole:
                gathered = value.full_tensor().detach()
                whole[value] = nn.Parameter(gathered.cpu(), value.requires_grad) if keep else value
            setattr(module, name, whole[value])


def leave_meta(module: nn.Module, made: dict[Tensor, Tensor]) -> None:
    """Give what is on the meta device memory on the CPU, without values; ``made`` keeps what is tied tied."""
    for each in module.modules():
        for tensors in (each._parameters, each._buffers):
            for name, value in tensors.items():
                if value is None or not value.is_meta:
                    continue
                if value not in made:
                    empty = torch.empty_like(value, device="cpu")
                    made[value] = nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
                tensors[name] = made[value]  # type: ignore[assignment]


def share_weight(target: nn.Parameter, whole: Tensor | None) -> None:
    """Put the first process's ``whole`` tensor, which the others need not have, into ``target`` of all processes."""
    if whole is None:
        whole = torch.empty(target.shape, dtype=target.dtype, device=target.device)
    whole = whole.to(target.device).contiguous()
    if isinstance(target, DTensor):
        parts = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=0)
        target.data.to_local().copy_(parts.to_local())  # type: ignore[attr-defined]
    else:
        distributed.broadcast(whole, src=0)
        target.data.copy_(whole)


def has_unnamed_tensors(model: nn.Module) -> bool:
    """Whether a module keeps a tensor that is neither a parameter nor a buffer."""
    return any(isinstance(value, Tensor) for module in model.modules() for value in vars(module).values())


def _like(whole: Tensor, target: Tensor) -> Tensor:
    """The part of ``whole`` that ``target`` holds of its own."""
    if not isinstance(target, DTensor):
        return whole
    local = whole.to(target.device)
    return distribute_tensor(local, target.device_mesh, target.placements, src_data_rank=None)
