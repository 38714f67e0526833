"""The mean of gradients over processes that hold the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn

_BUCKET = 1 << 24
"""Numbers that are sent at once: more make it no faster, and each bucket is a copy."""


def average_gradients(
    parameters: Iterable[nn.Parameter],
    processes: int,
    *,
    device: torch.device,
    group: distributed.ProcessGroup | None = None,
) -> None:
    """Replace each gradient by its mean over all processes, which call this with the same ``parameters``.

    A process without a gradient counts as zeros; where no process has one, there is none afterwards. Which there are is
    exchanged on ``device`` in ``group`` (None: the default one).
    """
    values = list(parameters)
    counts = torch.tensor([float(value.grad is not None) for value in values], device=device)
    distributed.all_reduce(counts, group=group)
    for bucket in _buckets(value for value, count in zip(values, counts.tolist(), strict=True) if count):
        parts = [torch.zeros_like(value) if value.grad is None else value.grad for value in bucket]
        flat = torch.cat([part.flatten() for part in parts])
        distributed.all_reduce(flat)
        flat /= processes
        for value, part in zip(bucket, torch.split(flat, [part.numel() for part in parts]), strict=True):
            _set_gradient(value, part.view_as(value))


def _buckets(values: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Consecutive parameters of one dtype, together at most `_BUCKET` numbers, but one parameter at least."""
    bucket: list[nn.Parameter] = []
    for value in values:
        size = sum(each.numel() for each in bucket) + value.numel()
        if bucket and (size > _BUCKET or bucket[0].dtype != value.dtype):
            yield bucket
            bucket = []
        bucket.append(value)
    if bucket:
        yield bucket


def _set_gradient(value: nn.Parameter, gradient: Tensor) -> None:
    """Into the memory of the one that is there, so that the bucket's is given back."""
    if value.grad is None:
        value.grad = gradient.clone()
    else:
        value.grad.copy_(gradient)
