"""Forward passes of sharded weights, of which each process makes as many as it needs.

A layer's weights are gathered from all processes when it runs, so all must run it at the same time, as often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed import all_reduce

from multitask_trainer.errors import Interrupted, LostPass


@contextmanager
def lockstep(module: nn.Module, idle_pass: Callable[[], None], device: torch.device) -> Iterator[None]:
    """A context that all processes enter; it ends for all at once, when no process needs another pass of ``module``.

    A process that has left the block runs ``idle_pass``, one forward pass of ``module``, for each of the others'; an
    error of the block is raised then. Raises `LostPass` at once for an error within a pass.
    """
    is_running = False
    failure: Exception | Interrupted | None = None

    def begin(*_: object) -> None:
        nonlocal is_running
        _count(1, device)
        is_running = True

    def end(*_: object) -> None:
        nonlocal is_running
        is_running = False

    hooks = (module.register_forward_pre_hook(begin), module.register_forward_hook(end))
    try:
        yield
    except (Exception, Interrupted) as error:
        if is_running:
            raise LostPass(f"{type(error).__name__}: {error}") from error
        failure = error
    finally:
        for hook in hooks:
            hook.remove()
    while _count(0, device):
        idle_pass()
    if failure is not None:
        raise failure


def _count(running: int, device: torch.device) -> int:
    """The number of processes that have a pass to run now; each says ``running``, 1 or 0."""
    total = torch.tensor(running, device=device)
    all_reduce(total)
    return int(total)
