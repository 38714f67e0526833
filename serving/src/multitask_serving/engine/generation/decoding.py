"""Batched decoding with a key-value cache, greedy or sampled, streamed token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from multitask_api.bundle import ForwardPath
from multitask_serving.engine.batching import AdapterContext, cached_batches, use_adapters
from multitask_serving.engine.generation.sampling import GREEDY, Sampling, sample_next_token
from multitask_serving.engine.generation.text_stream import TextStream
from multitask_serving.engine.model.backbone import Backbone, eval_mode
from multitask_serving.engine.model.cached_rows import CachedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FinishReason = Literal["eos", "stop", "length"]

TOKEN_BUDGETS = {"cpu": 16384, "cuda": 1 << 18}
"""Key-value cache positions (rows × padded length) of one batch. A larger batch makes a decoding step little slower."""


@dataclass(frozen=True, slots=True)
class GenerationInput:
    """A prompt's token ids and how its answer ends.

    ``eos`` is a token id; ``stop`` are strings; ``separator`` is removed from the answer's beginning (see
    `prompt.template.answer_separator`).
    """

    input_ids: Sequence[int]
    eos: int
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    separator: str = ""
    sampling: Sampling = GREEDY


@dataclass(frozen=True, slots=True)
class Step:
    """One new token of a row. ``margin`` is the log-probability gap between the two most probable tokens, in nats."""

    row: int
    text_delta: str
    token: int
    margin: float
    finish_reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        """Whether this is the row's last step."""
        return self.finish_reason is not None


def generate_rows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[GenerationInput],
    *,
    path: ForwardPath | None = None,
    adapter_context: AdapterContext | None = None,
    token_budget: int | None = None,
) -> Iterator[list[Step]]:
    """Generate text for all rows; yields, for each decoding step, one `Step` per row of the current batch.

    A row's ``text_delta``s, joined, are its text. EOS counts as a token. Batches run one after the other, each with its
    own key-value cache of at most ``token_budget`` positions (default: `TOKEN_BUDGETS`); a row leaves its batch when it
    finishes. ``path`` says how the model is run (None: `MASKED`). Between steps the model itself has no state of this
    call, so the caller may use it for other work.
    """
    backbone = Backbone.of(model, path)
    lengths = [len(row.input_ids) for row in rows]
    widths = [length + row.max_new_tokens for length, row in zip(lengths, rows, strict=True)]
    for batch in cached_batches(backbone.path, lengths, widths, token_budget or TOKEN_BUDGETS[backbone.device.type]):
        decoding = _DecodingBatch(model, backbone, tokenizer, batch, [rows[row] for row in batch], adapter_context)
        while decoding.row_numbers:
            yield decoding.step()


class _DecodingBatch:
    """A batch being decoded."""

    def __init__(
        self,
        model: nn.Module,
        backbone: Backbone,
        tokenizer: PreTrainedTokenizerFast,
        row_numbers: list[int],
        rows: list[GenerationInput],
        adapter_context: AdapterContext | None,
    ) -> None:
        self._model, self._backbone, self._adapter_context = model, backbone, adapter_context
        self.row_numbers = row_numbers
        self._rows = rows
        backend = tokenizer.backend_tokenizer
        self._streams = [TextStream(backend, row.stop, row.separator) for row in rows]
        self._cached = CachedRows(backbone, [row.input_ids for row in rows])
        self._tokens: Tensor | None = None  # the last token of each row
        self._generated = 0  # new tokens of each row so far
        device = backbone.device
        limit = max(row.max_new_tokens for row in rows)
        self._temperature = _column([row.sampling.temperature for row in rows], device)
        self._top_p = _column([row.sampling.top_p for row in rows], device)
        uniform_samples = torch.zeros(len(rows), limit, dtype=torch.float64)
        for index, row in enumerate(rows):
            uniform_samples[index, : row.max_new_tokens] = row.sampling.uniform_samples(row.max_new_tokens)
        self._uniform_samples = uniform_samples.to(device)

    def step(self) -> list[Step]:
        """Generate one token of every row; rows that finish leave the batch."""
        with eval_mode(self._model):
            tokens, margins = self._forward()
            pairs = zip(tokens.tolist(), margins.tolist(), strict=True)
            steps = [self._row_step(index, token, margin) for index, (token, margin) in enumerate(pairs)]
            self._generated += 1
            self._tokens = tokens
            unfinished = [index for index, step in enumerate(steps) if not step.finished]
            if len(unfinished) < len(steps):
                self._keep_rows(unfinished)
        return steps

    def _forward(self) -> tuple[Tensor, Tensor]:
        with use_adapters(self._adapter_context, self.row_numbers):
            hidden = self._cached.read_prompts() if self._tokens is None else self._cached.read(self._tokens)
        logits = self._backbone.head(hidden).float()
        return sample_next_token(logits, self._temperature, self._top_p, self._uniform_samples[:, self._generated])

    def _row_step(self, index: int, token: int, margin: float) -> Step:
        row, stream = self._rows[index], self._streams[index]
        reason: FinishReason | None = None
        if token == row.eos:
            delta, reason = stream.finish(), "eos"
        else:
            delta = stream.push(token)
            if self._generated + 1 >= row.max_new_tokens and not stream.stopped:
                delta, reason = delta + stream.finish(), "length"
        if stream.stopped:
            reason = "stop"
        return Step(self.row_numbers[index], delta, token, margin, reason)

    def _keep_rows(self, indices: list[int]) -> None:
        self.row_numbers = [self.row_numbers[index] for index in indices]
        self._rows = [self._rows[index] for index in indices]
        self._streams = [self._streams[index] for index in indices]
        if not indices:
            return
        kept = torch.tensor(indices, device=self._temperature.device)
        self._cached.select(kept)
        for name in ("_tokens", "_temperature", "_top_p", "_uniform_samples"):
            setattr(self, name, getattr(self, name)[kept])


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)
