"""Rows that a model has read so far, with what it keeps of them: keys and values, or the state of recurrent layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.backbone import Backbone

_CACHE_ARGUMENTS = ("past_key_values", "cache_params")
"""What transformers calls the cache; the second one in pure state-space models."""


class CachedRows:
    """B prompts of a batch, padded on the left, so that the next token of every row is in the same column.

    With the isolation ``Masks`` the cache is a plain one that holds all positions, and the masks are made here. With
    ``Rows`` cache and masks are those of the model's family, which is told only which columns are padding.
    """

    def __init__(self, backbone: Backbone, prompts: Sequence[Sequence[int]]) -> None:
        from transformers import DynamicCache

        self._backbone = backbone
        width = max(len(prompt) for prompt in prompts)
        pads = [width - len(prompt) for prompt in prompts]
        self._pads = torch.tensor(pads, device=backbone.device)
        self._padded = any(pads)
        self._columns = 0  # tokens of each row so far, padding included
        # Without a configuration every layer of a DynamicCache keeps all positions.
        self._cache: Any = DynamicCache() if backbone.path.isolation == "Masks" else None
        self._prompts = torch.tensor(
            [[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)], device=backbone.device
        )

    def read_prompts(self) -> Tensor:
        """Run the prompts; the hidden states (B, H) at their last tokens. Called once, before `read`."""
        return self._run(self._prompts)

    def read(self, tokens: Tensor) -> Tensor:
        """Run one more token of every row, ``tokens`` (B,); the hidden states (B, H) there."""
        return self._run(tokens[:, None])

    def select(self, rows: Tensor) -> None:
        """Keep ``rows`` (indices, any number of times each), in this order."""
        # Not batch_select_indices: in hybrid caches it forgets the recurrent states.
        self._cache.reorder_cache(rows)
        self._pads = self._pads[rows]

    def copy(self, rows: Tensor) -> CachedRows:
        """A copy with ``rows``, as in `select`; this one stays as it is."""
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)  # caches write into their own tensors
        other.select(rows)
        return other

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the cache for one row."""
        return _tensor_bytes(self._cache, set()) // max(1, len(self._pads))

    def _run(self, input_ids: Tensor) -> Tensor:
        columns = torch.arange(self._columns + input_ids.shape[1], device=input_ids.device)
        queries = columns[self._columns :]
        position_ids = (queries[None] - self._pads[:, None]).clamp_(min=0)
        rows_only = self._backbone.path.isolation == "Rows"
        mask: Any = self._padding_mask(columns) if rows_only else self._mask(columns, queries, position_ids)
        output = self._backbone.run(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask,
            use_cache=True,
            **dict.fromkeys(_CACHE_ARGUMENTS, self._cache),
        )
        self._cache = next((output[name] for name in _CACHE_ARGUMENTS if output.get(name) is not None), None)
        if self._cache is None:
            raise InvalidBundle(
                f"{type(self._backbone.decoder).__name__} keeps no cache of the tokens that it has read"
            )
        self._columns += input_ids.shape[1]
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def _padding_mask(self, columns: Tensor) -> Tensor | None:
        """(B, K) 1 for tokens, 0 for padding; None where there is none."""
        return (columns[None] >= self._pads[:, None]).long() if self._padded else None

    def _mask(self, columns: Tensor, queries: Tensor, position_ids: Tensor) -> Any:
        mask = (columns[None] >= self._pads[:, None])[:, None, None, :]
        if len(queries) > 1:
            # A padding token attends to itself: a softmax over nothing would be NaN.
            own = columns[None] == queries[:, None]
            mask = mask & (columns[None] <= queries[:, None]) | own
        keys = columns[None] - self._pads[:, None]
        dtype = next(self._backbone.decoder.parameters()).dtype
        return self._backbone.masks.of_layers(mask, position_ids, keys, dtype)


def _tensor_bytes(value: object, seen: set[int]) -> int:
    """Bytes of all tensors that ``value`` holds, each once."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    items: list[object] = []
    if isinstance(value, dict):
        items = list(value.values())
    elif isinstance(value, list | tuple):
        items = list(value)
    elif hasattr(value, "__dict__"):
        items = list(vars(value).values())
    return sum(_tensor_bytes(item, seen) for item in items)
