"""Generation: greedy or sampled, batched, with a key-value cache, streamed token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from multitask_serving.engine.backbone import Backbone, evaluating
from multitask_serving.engine.sampling import GREEDY, Sampling, choose
from multitask_serving.engine.score import Select, micro_batches
from multitask_serving.engine.stream import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FinishReason = Literal["eos", "stop", "length"]

TOKEN_BUDGETS = {"cpu": 16384, "cuda": 1 << 18}
"""Key-value cache entries (rows × padded length) of one batch. A decoding step costs little more with more rows."""


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt and how its answer ends. ``separator`` is left out at the answer's beginning (`answer_separator`)."""

    ids: Sequence[int]
    eos: int
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    separator: str = ""
    sampling: Sampling = GREEDY


@dataclass(frozen=True, slots=True)
class Step:
    """One token of one row. ``margin``: the log-probability gap, in nats, between the two likeliest tokens here."""

    row: int
    text_delta: str
    token: int
    margin: float
    finish_reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        """The row's last step."""
        return self.finish_reason is not None


def generate_rows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Prompted],
    *,
    select: Select | None = None,
    token_budget: int | None = None,
) -> Iterator[list[Step]]:
    """Answer all rows: for each step of the model, a token of every row in it. A row's deltas, joined, are its text.

    EOS counts as a token. Rows are cut into batches, one after the other (each has a cache of its own, and
    ``token_budget`` limits what is held); within one, rows advance together and leave when they finish. Between steps
    nothing of the model's state is held, so the caller may use it for other work, or stop early.
    """
    backbone = Backbone.of(model)
    widths = [len(row.ids) + row.max_new_tokens for row in rows]
    for batch in micro_batches(widths, token_budget or TOKEN_BUDGETS[backbone.device.type]):
        run = _Run(model, backbone, tokenizer, batch, [rows[number] for number in batch], select)
        while run.numbers:
            yield run.step()


class _Run:
    """A batch on its way. Prompts are padded in front, so that every row's next token stands in the same column."""

    def __init__(
        self,
        model: nn.Module,
        backbone: Backbone,
        tokenizer: PreTrainedTokenizerFast,
        numbers: list[int],
        rows: list[Prompted],
        select: Select | None,
    ) -> None:
        from transformers import DynamicCache

        self._model, self._backbone, self._select = model, backbone, select
        self.numbers = numbers
        self._rows = rows
        backend = tokenizer.backend_tokenizer
        self._streams = [TextStream(backend, row.stop, row.separator) for row in rows]
        # No config: full layers for every kind of attention; the masks given here say who attends to whom.
        self._cache: Any = DynamicCache()
        self._done = 0  # tokens that every row has by now
        device = backbone.device
        width = max(len(row.ids) for row in rows)
        limit = max(row.max_new_tokens for row in rows)
        ids = torch.tensor([[0] * (width - len(row.ids)) + list(row.ids) for row in rows])
        self._padding = torch.tensor([width - len(row.ids) for row in rows], device=device)
        self._real = torch.arange(width + limit, device=device)[None] >= self._padding[:, None]
        self._temperature = _column([row.sampling.temperature for row in rows], device)
        self._top_p = _column([row.sampling.top_p for row in rows], device)
        draws = torch.zeros(len(rows), limit, dtype=torch.float64)
        for number, row in enumerate(rows):
            draws[number, : row.max_new_tokens] = row.sampling.draws(row.max_new_tokens)
        self._draws = draws.to(device)
        self._next = ids.to(device)

    def step(self) -> list[Step]:
        """Give every row a token; rows that finish leave the batch."""
        with evaluating(self._model):
            tokens, margins = self._forward()
            steps = [
                self._take(at, *pair) for at, pair in enumerate(zip(tokens.tolist(), margins.tolist(), strict=True))
            ]
            self._done += 1
            self._next = tokens[:, None]
            staying = [at for at, step in enumerate(steps) if not step.finished]
            if len(staying) < len(steps):
                self._keep(staying)
        return steps

    def _forward(self) -> tuple[Tensor, Tensor]:
        queries = self._next.shape[1]
        known = self._cache.get_seq_length()
        real = self._real[:, : known + queries]
        columns = torch.arange(known, known + queries, device=real.device)
        positions = (columns[None] - self._padding[:, None]).clamp_(min=0)
        allowed = real[:, None, None, :]
        if queries > 1:
            # A padding token attends to itself: a softmax over nothing would be NaN.
            square = torch.ones(queries, queries, dtype=torch.bool, device=real.device)
            allowed = allowed & square.tril() | torch.eye(queries, dtype=torch.bool, device=real.device)
        with self._select(self.numbers) if self._select else nullcontext():
            hidden = self._backbone.decoder(
                input_ids=self._next,
                position_ids=positions,
                attention_mask=self._backbone.attention_mask(allowed),
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        logits = self._backbone.head(hidden[:, -1]).float()
        return choose(logits, self._temperature, self._top_p, self._draws[:, self._done])

    def _take(self, at: int, token: int, margin: float) -> Step:
        row, stream = self._rows[at], self._streams[at]
        reason: FinishReason | None = None
        if token == row.eos:
            delta, reason = stream.finish(), "eos"
        else:
            delta = stream.push(token)
            if self._done + 1 >= row.max_new_tokens and not stream.stopped:
                delta, reason = delta + stream.finish(), "length"
        if stream.stopped:
            reason = "stop"
        return Step(self.numbers[at], delta, token, margin, reason)

    def _keep(self, staying: list[int]) -> None:
        self.numbers = [self.numbers[at] for at in staying]
        self._rows = [self._rows[at] for at in staying]
        self._streams = [self._streams[at] for at in staying]
        if not staying:
            return
        index = torch.tensor(staying, device=self._next.device)
        self._cache.batch_select_indices(index)
        for name in ("_next", "_padding", "_real", "_temperature", "_top_p", "_draws"):
            setattr(self, name, getattr(self, name)[index])


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)
