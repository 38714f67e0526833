"""AdamW steps in which weights of single tasks stay where they are unless their task has rows.

In a step without rows of a task its gradients are zero, but AdamW would move its experts all the same: by momentum, by
weight decay, and by averages that forget. And its one count of steps would be wrong for a task that is seldom there.
Here a task's weights, averages and count change only in steps that have rows of it, as if there were no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class OwnedParameter:
    """A parameter whose slices along ``dim`` belong to tasks."""

    value: nn.Parameter
    dim: int
    owners: Tensor
    """(size of ``dim``,) int64: the task of each slice; the number of tasks for slices that all tasks share."""


def step_by_task(optimizer: Optimizer, owned: Sequence[OwnedParameter], present: Tensor) -> None:
    """One step of ``optimizer``, an AdamW, in which slices of tasks that are not ``present`` stay as they are.

    ``present`` is (T,) bool. Slices that all tasks share take part in every step. All other parameters are stepped by
    the optimizer itself. The state of the owned ones is in ``optimizer.state`` under AdamW's names, so that it is saved
    and loaded with the rest; ``step`` is (T + 1,), the steps of each task and at the end those of all.
    """
    owned = [parameter for parameter in owned if parameter.value.grad is not None]
    gradients = [parameter.value.grad for parameter in owned]
    for parameter in owned:
        parameter.value.grad = None  # the optimizer passes over it
    optimizer.step()
    for parameter, gradient in zip(owned, gradients, strict=True):
        parameter.value.grad = gradient
    if not owned:
        return
    takes_part = torch.cat([present, present.new_ones(1)]).to(owned[0].value.device)
    steps = _count_steps(optimizer, owned, takes_part)
    for group in optimizer.param_groups:
        members = {id(value) for value in group["params"]}
        of_group = [parameter for parameter in owned if id(parameter.value) in members]
        if of_group:
            _adamw(optimizer, of_group, _Factors.of(group, steps, takes_part), eps=group["eps"])


def _count_steps(optimizer: Optimizer, owned: Sequence[OwnedParameter], takes_part: Tensor) -> Tensor:
    """Make the state of new parameters, and add one to the steps of each owner that takes part: (T + 1,) fp32.

    All parameters have the same count, and after this the same tensor.
    """
    for parameter in owned:
        state = optimizer.state[parameter.value]
        if not state:
            state["step"] = torch.zeros(len(takes_part), device=takes_part.device)
            state["exp_avg"] = torch.zeros_like(parameter.value, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter.value, memory_format=torch.preserve_format)
    steps: Tensor = optimizer.state[owned[0].value]["step"].to(takes_part.device) + takes_part
    for parameter in owned:
        optimizer.state[parameter.value]["step"] = steps
    return steps


@dataclass(frozen=True)
class _Factors:
    """What AdamW (Loshchilov and Hutter, arXiv 1711.05101) multiplies with, for each owner: (T + 1,) fp64."""

    share: Tensor
    """1 - β1, or 0: the weight of the gradient in the first average."""
    keep: Tensor
    """β2, or 1: that of the second average so far."""
    decay: Tensor
    """1 - rate · weight decay, or 1."""
    root: Tensor
    """1 / √(1 - β2^n): the bias correction of the second average's root after n steps."""
    rate: Tensor
    """rate / (1 - β1^n), or 0."""
    square: float
    """1 - β2. Of the gradient's square, which is zero where an owner does not take part."""

    @classmethod
    def of(cls, group: Mapping[str, Any], steps: Tensor, takes_part: Tensor) -> _Factors:
        beta1, beta2 = group["betas"]
        part, count = takes_part.double(), steps.double().clamp(min=1)  # a task may have had no step at all
        return cls(
            share=(1 - beta1) * part,
            keep=1 - (1 - beta2) * part,
            decay=1 - group["lr"] * group["weight_decay"] * part,
            root=(1 - beta2**count).rsqrt(),
            rate=group["lr"] * part / (1 - beta1**count),
            square=1 - beta2,
        )


def _adamw(optimizer: Optimizer, owned: Sequence[OwnedParameter], factors: _Factors, *, eps: float) -> None:
    """m ← m + share · (g - m), v ← keep · v + square · g², p ← decay · p - rate · m / (root · √v + ε)."""
    values: list[Tensor] = [parameter.value.detach() for parameter in owned]
    gradients: list[Tensor] = [parameter.value.grad for parameter in owned if parameter.value.grad is not None]
    first: list[Tensor] = [optimizer.state[parameter.value]["exp_avg"] for parameter in owned]
    second: list[Tensor] = [optimizer.state[parameter.value]["exp_avg_sq"] for parameter in owned]
    spread = _Spread(owned)
    torch._foreach_lerp_(first, gradients, spread(factors.share))
    torch._foreach_mul_(second, spread(factors.keep))
    torch._foreach_addcmul_(second, gradients, gradients, factors.square)
    updates = torch._foreach_sqrt(second)
    torch._foreach_mul_(updates, spread(factors.root))
    torch._foreach_add_(updates, eps)
    updates = torch._foreach_div(first, updates)
    torch._foreach_mul_(updates, spread(factors.rate))
    torch._foreach_mul_(values, spread(factors.decay))
    torch._foreach_sub_(values, updates)


class _Spread:
    """Factors of owners as tensors of the parameters' shapes, one for all parameters of a shape.

    They are whole tensors, not views that are broadcast: only then PyTorch takes all parameters in one kernel.
    """

    def __init__(self, owned: Sequence[OwnedParameter]) -> None:
        self._keys = [(each.value.shape, each.dim, id(each.owners)) for each in owned]
        self._of_key = dict(zip(self._keys, owned, strict=True))

    def __call__(self, factors: Tensor) -> list[Tensor]:
        """(T + 1,) → a tensor for each parameter."""
        whole = {key: self._whole(factors, parameter) for key, parameter in self._of_key.items()}
        return [whole[key] for key in self._keys]

    def _whole(self, factors: Tensor, parameter: OwnedParameter) -> Tensor:
        value = parameter.value
        sizes = [1] * value.ndim
        sizes[parameter.dim] = -1
        return factors[parameter.owners].to(value.dtype).reshape(sizes).expand(value.shape).contiguous()
