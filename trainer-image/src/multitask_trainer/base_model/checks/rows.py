"""Whether a model gives the same answers for rows in a batch as for each row alone; a few tokens decide.

The reference is a plain forward pass of one row, without cache and mask, through the whole model. Everything else goes
through the engine's own code, so what is tested is what runs later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from multitask_api.bundle import ForwardPath, LabelIds
from multitask_serving.engine.classification.scoring import label_log_probs
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.model.backbone import Backbone
from multitask_serving.engine.model.cached_rows import CachedRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-3
"""Largest difference of logits in fp32, in standard deviations of the logits. Measured over the families of
docs/results/base-models.md: above 1e-2 where rows are not kept apart; where they are, below 2e-5, and up to 4e-4 in two
families (Zamba2, Nemotron-H) whose state-space layers sum in another order step by step than over a whole row."""
TOKENS = 19
"""Tokens that `BatchTests` needs."""
_WINDOW = 4
"""The window that layers get while windows are tested."""
_WINDOWS = ("sliding_window", "attention_chunk_size")
_PROMPTS = {"Padded": (11, 6), "EqualLengths": (6, 6), "SingleRows": (11,)}
"""Lengths of the prompts that share a batch, by ``ForwardPath.batches``."""


@dataclass(frozen=True)
class Outcome:
    """What one test gave."""

    difference: float
    """The largest one, in standard deviations of the logits; infinite where it is not a number."""
    error: Exception | None = None
    """What the model raised instead of logits."""

    @property
    def is_right(self) -> bool:
        """Whether rounding explains the difference."""
        return self.error is None and self.difference <= TOLERANCE

    def __str__(self) -> str:
        if self.error is not None:
            return shorten(f"{type(self.error).__name__}: {self.error}", 200, placeholder=" …").rstrip(".")
        return f"by {self.difference:.2g} standard deviations"


class BatchTests:
    """Tests of one model with ``tokens``: at least `TOKENS` ids of ordinary text.

    Each test compares with plain forward passes of single rows. A model that fails in a test has failed it.
    """

    def __init__(self, model: PreTrainedModel, tokens: Sequence[int]) -> None:
        self._model = model
        self._rows = [list(tokens[:11]), list(tokens[11:17])]
        self._next = list(tokens[16:TOKENS])

    def plain(self) -> Outcome:
        """Whether there is a plain forward pass to compare with: one row, run by the model itself."""
        return self._measure(lambda: _number(0.0 * self._expected(self._rows[0]).sum()))

    def causality(self) -> Outcome:
        """One row, and another one with a different last token: the logits before that token."""
        return self._measure(self._of_last_token)

    def head(self, path: ForwardPath) -> Outcome:
        """Decoder and head, one after the other."""
        return self._measure(lambda: self._of_sequences(path, [self._rows[0]]))

    def right_padding(self, path: ForwardPath) -> Outcome:
        """Two rows of different length in a batch, padded on the right."""
        return self._measure(lambda: self._of_sequences(path, self._rows))

    def pack(self, path: ForwardPath) -> Outcome:
        """Two rows in one sequence, kept apart by a mask."""
        return self._measure(lambda: self._of_pack(Backbone.of(self._model, path)))

    def labels(self, path: ForwardPath) -> Outcome:
        """Three labels behind each of two prompts, scored as ``path`` says."""
        return self._measure(lambda: self._of_labels(path))

    def cached(self, path: ForwardPath) -> Outcome:
        """Three cached tokens behind prompts that may share a batch; after the first, the rows change places."""
        return self._measure(lambda: self._of_cached(Backbone.of(self._model, path), _PROMPTS[path.batches]))

    @contextmanager
    def short_windows(self) -> Iterator[bool]:
        """A context in which windowed layers see `_WINDOW` positions; whether there are any."""
        config: Any = self._model.config.get_text_config()
        before = {name: getattr(config, name, None) for name in _WINDOWS}
        windowed = {name: value for name, value in before.items() if value}
        try:
            for name in windowed:
                setattr(config, name, _WINDOW)
            yield bool(windowed)
        finally:
            for name, value in windowed.items():
                setattr(config, name, value)

    def _measure(self, test: Callable[[], float]) -> Outcome:
        try:
            with torch.inference_mode():
                return Outcome(test())
        except Exception as error:  # noqa: BLE001  whatever a family raises for a batch that it cannot run
            return Outcome(math.inf, error)

    def _expected(self, row: Sequence[int]) -> Tensor:
        """The logits of a row alone (T, V)."""
        logits: Tensor = self._model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
        return logits.float()

    def _of_last_token(self) -> float:
        row = self._rows[0]
        changed = [*row[:-1], self._rows[1][0] if self._rows[1][0] != row[-1] else self._rows[1][1]]
        return _difference(self._expected(changed)[:-1], self._expected(row)[:-1])

    def _of_sequences(self, path: ForwardPath, rows: Sequence[Sequence[int]]) -> float:
        backbone = Backbone.of(self._model, path)
        width = max(len(row) for row in rows)
        input_ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        hidden = backbone.hidden_states(input_ids, torch.arange(width).expand(len(rows), width))
        logits = backbone.head(hidden).float()
        return max(_difference(logits[i, : len(row)], self._expected(row)) for i, row in enumerate(rows))

    def _of_pack(self, backbone: Backbone) -> float:
        first, second = self._rows
        segments = torch.tensor([[0] * len(first) + [1] * len(second)])
        positions = torch.tensor([[*range(len(first)), *range(len(second))]])
        causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
        mask = (segments[:, :, None] == segments[:, None, :]) & causal
        logits = backbone.head(backbone.hidden_states(torch.tensor([first + second]), positions, mask[:, None])).float()
        expected = torch.cat([self._expected(first), self._expected(second)])
        return _difference(logits[0], expected)

    def _of_labels(self, path: ForwardPath) -> float:
        a, b, c = self._next
        labels = [(a, b), (a, c, b), (c,)]
        trie = LabelTrie.build([LabelIds(label=str(ids), ids=ids) for ids in labels], eos=b)
        actual = label_log_probs(self._model, self._rows, [trie] * 2, path=path)
        worst = 0.0
        for row, scores in zip(self._rows, actual, strict=True):
            for ids, score in zip(labels, scores, strict=True):
                logits = self._expected([*row, *ids])[len(row) - 1 :]
                chosen = logits.log_softmax(-1)[range(len(ids) + 1), [*ids, b]]
                worst = max(worst, _number((chosen.sum() - score).abs() / logits.std()))
        return worst

    def _of_cached(self, backbone: Backbone, lengths: Sequence[int]) -> float:
        rows = [row[:length] for row, length in zip(self._rows, lengths, strict=False)]
        cached = CachedRows(backbone, rows)
        worst = self._at_ends(backbone, cached.read_prompts(), rows)
        for step, token in enumerate(self._next):
            rows = [[*row, token] for row in rows]
            worst = max(worst, self._at_ends(backbone, cached.read(torch.full((len(rows),), token)), rows))
            if step == 0:
                order = list(range(len(rows)))[::-1]
                cached.select(torch.tensor(order))
                rows = [rows[index] for index in order]
        return worst

    def _at_ends(self, backbone: Backbone, hidden: Tensor, rows: Sequence[Sequence[int]]) -> float:
        logits = backbone.head(hidden).float()
        return max(_difference(logits[i], self._expected(row)[-1]) for i, row in enumerate(rows))


def _difference(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return math.inf
    return _number((actual - expected).abs().max() / expected.std())


def _number(value: Tensor) -> float:
    """Infinity for NaN, which would be lost in a comparison."""
    return math.inf if value.isnan() else float(value)
