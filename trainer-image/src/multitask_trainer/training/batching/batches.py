"""Micro-batches: part of the rows of one optimizer step, collated for one forward pass.

All rows of a step, over all micro-batches and processes, are its *global batch* (``training.batchRows``). ``layouts``
makes micro-batches of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EncodedRow = tuple[NDArray[np.int32], int]
"""A row's ids (prompt, answer, EOS) and the length of its prompt."""


@dataclass(frozen=True)
class MicroBatch:
    """B sequences of T tokens. The last token of a row is only ever a target, so it is not among the inputs."""

    input_ids: Tensor
    """(B, T) int64"""
    position_ids: Tensor
    """(B, T) int64"""
    segment_ids: Tensor | None
    """(B, T) int32, equal for the tokens of one row, 0 for padding; None where attention needs no mask."""
    logit_positions: Tensor
    """(N,) int64, indices into B · T: where the target tokens are predicted."""
    targets: Tensor
    """(N,) int64 token ids."""
    weights: Tensor
    """(N,) float32, 1 / (the row's target tokens · the global batch's rows); the loss is Σ weight · nll."""
    tokens: int
    """Input tokens, padding not counted."""
    task_ids: Tensor | None = None
    """int64, indices into the tasks of the run: (B,), or (B, T) where a sequence holds several rows; None: no tasks."""
    cumulative_lengths: Tensor | None = None
    """(R + 1,) int32, for varlen attention: where each of R rows begins in B · T, and B · T. Padding is a row too."""
    longest_row: int = 0
    """Tokens, where there are ``cumulative_lengths``."""

    @property
    def attention_mask(self) -> Tensor | None:
        """(B, 1, T, T) bool, true for "may attend"; made where the batch is. None for plain causal attention."""
        if self.segment_ids is None:
            return None
        width = self.segment_ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=self.segment_ids.device).tril()
        return ((self.segment_ids[:, :, None] == self.segment_ids[:, None, :]) & causal)[:, None]

    @property
    def attention_arguments(self) -> dict[str, Any]:
        """What `varlen_attention` is given, by transformers' names; empty for the other layouts."""
        lengths, longest = self.cumulative_lengths, self.longest_row
        if lengths is None:
            return {}
        return {
            "cu_seq_lens_q": lengths,
            "cu_seq_lens_k": lengths,
            "max_length_q": longest,
            "max_length_k": longest,
        }

    def to(self, device: torch.device) -> MicroBatch:
        """The same on ``device``."""
        if device.type == "cpu":
            return self
        return self.pinned()._each(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> MicroBatch:
        """The same in pinned memory, from which a GPU copies while it computes; what is pinned already stays."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


class BatchSizes(Protocol):
    """How large the micro-batches of a step can be, for what finds their size."""

    @property
    def width(self) -> int:
        """Tokens of the widest sequence."""

    @property
    def step_tokens(self) -> int:
        """Tokens of a step at the most, padding included."""

    def longest(self, sequences: int) -> MicroBatch:
        """So many sequences that are full of the longest row."""


class Batches(BatchSizes, Protocol):
    """The rows of every step, in micro-batches for this process."""

    @property
    def token_budget(self) -> int:
        """Tokens of a micro-batch at the most, padding included."""

    def at(self, step: int) -> Sequence[MicroBatch]:
        """The micro-batches of ``step``, counted from 0."""

    def present(self, step: int) -> Tensor:
        """Of each task of the run, whether the global batch of ``step`` has rows of it: (tasks,) bool."""

    def with_budget(self, tokens: int) -> Batches:
        """The same rows in micro-batches of at most ``tokens`` tokens, but of one row at least."""
