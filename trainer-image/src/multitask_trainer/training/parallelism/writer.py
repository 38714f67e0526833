"""Writes while training goes on: what is written is copied to the CPU first, a thread does the rest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


class BackgroundWriter:
    """Does one thing after the other. A thing that fails raises its error in the next `wait`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: list[Future[None]] = []

    def submit(self, write: Callable[[], None]) -> None:
        """Do it once what was submitted before is done."""
        self._pending.append(self._thread.submit(write))

    def wait(self) -> None:
        """Wait until nothing is pending."""
        pending, self._pending = self._pending, []
        for each in pending:
            each.result()


def copied(value: Any) -> Any:
    """``value`` with copies on the CPU of all tensors in its dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value
