"""Attention masks as a decoder's layers take them: boolean or additive, narrowed to the windows of its layers.

Masks are made from positions, not from columns: a token of a window of w attends to itself and to the w - 1 positions
before it, wherever they lie in a pack, a label trie or a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WINDOW, CHUNK = "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class LayerMasks:
    """The kinds of attention layers of one decoder."""

    kinds: tuple[str, ...]
    """The names in transformers' ``layer_types``; empty if the configuration has none."""
    window: int | None = None
    chunk: int | None = None
    boolean: bool = True
    """Whether attention takes boolean masks, true for "attend"; otherwise it adds a float mask to its scores."""

    @classmethod
    def of(cls, config: PreTrainedConfig) -> LayerMasks:
        """From the text decoder's configuration; a window of 0 is none."""
        return cls(
            kinds=tuple(dict.fromkeys(getattr(config, "layer_types", None) or ())),
            window=getattr(config, "sliding_window", None) or None,
            chunk=getattr(config, "attention_chunk_size", None) or None,
            boolean=config._attn_implementation != "eager",
        )

    @property
    def reach(self) -> int | None:
        """How many positions the narrowest layer sees; None if all layers see everything."""
        windowed = not self.kinds or WINDOW in self.kinds
        chunked = CHUNK in self.kinds
        sizes = [self.window if windowed else None, self.chunk if chunked else None]
        return min((size for size in sizes if size is not None), default=None)

    def of_layers(
        self, mask: Tensor, queries: Tensor, keys: Tensor, dtype: torch.dtype
    ) -> Tensor | Mapping[str, Tensor]:
        """The decoder's ``attention_mask`` from ``mask`` (B, 1, Q, K), true where a full layer may attend.

        ``queries`` (B, Q) and ``keys`` (B, K) are positions, those of one row's tokens counted from its beginning.
        A mapping by kind of layer if the kinds differ.
        """
        form = self._boolean if self.boolean else self._additive(dtype)
        if self.reach is None or int(queries.max()) < self.reach:
            return form(mask)
        narrow = {WINDOW: self._in_window, CHUNK: self._in_chunk}
        if not self.kinds:
            return form(mask & self._in_window(queries, keys))
        by_kind = {kind: mask & narrow[kind](queries, keys) if kind in narrow else mask for kind in self.kinds}
        masks = {kind: form(narrowed) for kind, narrowed in by_kind.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _in_window(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self.window is None:
            return torch.ones((), dtype=torch.bool, device=keys.device)
        return (queries[:, None, :, None] - keys[:, None, None, :]) < self.window

    def _in_chunk(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self.chunk is None:
            return torch.ones((), dtype=torch.bool, device=keys.device)
        return (queries // self.chunk)[:, None, :, None] == (keys // self.chunk)[:, None, None, :]

    @staticmethod
    def _boolean(mask: Tensor) -> Tensor:
        return mask

    @staticmethod
    def _additive(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        lowest = torch.finfo(dtype).min
        return lambda mask: torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, lowest)
