"""Batched decoding with a key-value cache, greedy or sampled, streamed token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from multitask_serving.engine.batching import AdapterContext, micro_batches
from multitask_serving.engine.generation.sampling import GREEDY, Sampling, sample_next_token
from multitask_serving.engine.generation.text_stream import TextStream
from multitask_serving.engine.model.backbone import Backbone, eval_mode

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
    adapter_context: AdapterContext | None = None,
    token_budget: int | None = None,
) -> Iterator[list[Step]]:
    """Generate text for all rows; yields, for each decoding step, one `Step` per row of the current batch.

    A row's ``text_delta``s, joined, are its text. EOS counts as a token. Batches run one after the other, each with its
    own key-value cache of at most ``token_budget`` positions (default: `TOKEN_BUDGETS`); a row leaves its batch when it
    finishes. Between steps the model itself has no state of this call, so the caller may use it for other work.
    """
    backbone = Backbone.of(model)
    widths = [len(row.input_ids) + row.max_new_tokens for row in rows]
    for batch in micro_batches(widths, token_budget or TOKEN_BUDGETS[backbone.device.type]):
        decoding = _DecodingBatch(model, backbone, tokenizer, batch, [rows[row] for row in batch], adapter_context)
        while decoding.row_numbers:
            yield decoding.step()


class _DecodingBatch:
    """A batch being decoded. Prompts are left-padded, so that the next token of every row is in the same column."""

    def __init__(
        self,
        model: nn.Module,
        backbone: Backbone,
        tokenizer: PreTrainedTokenizerFast,
        row_numbers: list[int],
        rows: list[GenerationInput],
        adapter_context: AdapterContext | None,
    ) -> None:
        from transformers import DynamicCache

        self._model, self._backbone, self._adapter_context = model, backbone, adapter_context
        self.row_numbers = row_numbers
        self._rows = rows
        backend = tokenizer.backend_tokenizer
        self._streams = [TextStream(backend, row.stop, row.separator) for row in rows]
        # Without a config every layer caches all positions; the masks below are then right for any kind of attention.
        self._cache: Any = DynamicCache()
        self._generated = 0  # new tokens of each row so far
        device = backbone.device
        width = max(len(row.input_ids) for row in rows)
        limit = max(row.max_new_tokens for row in rows)
        input_ids = torch.tensor([[0] * (width - len(row.input_ids)) + list(row.input_ids) for row in rows])
        self._pad_lengths = torch.tensor([width - len(row.input_ids) for row in rows], device=device)
        self._attention_mask = torch.arange(width + limit, device=device)[None] >= self._pad_lengths[:, None]
        self._temperature = _column([row.sampling.temperature for row in rows], device)
        self._top_p = _column([row.sampling.top_p for row in rows], device)
        uniform_samples = torch.zeros(len(rows), limit, dtype=torch.float64)
        for index, row in enumerate(rows):
            uniform_samples[index, : row.max_new_tokens] = row.sampling.uniform_samples(row.max_new_tokens)
        self._uniform_samples = uniform_samples.to(device)
        self._input_ids = input_ids.to(device)

    def step(self) -> list[Step]:
        """Generate one token of every row; rows that finish leave the batch."""
        with eval_mode(self._model):
            tokens, margins = self._forward()
            pairs = zip(tokens.tolist(), margins.tolist(), strict=True)
            steps = [self._row_step(index, token, margin) for index, (token, margin) in enumerate(pairs)]
            self._generated += 1
            self._input_ids = tokens[:, None]
            unfinished = [index for index, step in enumerate(steps) if not step.finished]
            if len(unfinished) < len(steps):
                self._keep_rows(unfinished)
        return steps

    def _forward(self) -> tuple[Tensor, Tensor]:
        queries = self._input_ids.shape[1]
        cached = self._cache.get_seq_length()
        device = self._input_ids.device
        columns = torch.arange(cached, cached + queries, device=device)
        position_ids = (columns[None] - self._pad_lengths[:, None]).clamp_(min=0)
        mask = self._attention_mask[:, None, None, : cached + queries]
        if queries > 1:
            # A padding token attends to itself: a softmax over nothing would be NaN.
            causal = torch.ones(queries, queries, dtype=torch.bool, device=device).tril()
            mask = mask & causal | torch.eye(queries, dtype=torch.bool, device=device)
        with self._adapter_context(self.row_numbers) if self._adapter_context else nullcontext():
            hidden = self._backbone.decoder(
                input_ids=self._input_ids,
                position_ids=position_ids,
                attention_mask=self._backbone.attention_mask(mask),
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        logits = self._backbone.head(hidden[:, -1]).float()
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
        kept = torch.tensor(indices, device=self._input_ids.device)
        self._cache.batch_select_indices(kept)
        for name in ("_input_ids", "_pad_lengths", "_attention_mask", "_temperature", "_top_p", "_uniform_samples"):
            setattr(self, name, getattr(self, name)[kept])


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)
