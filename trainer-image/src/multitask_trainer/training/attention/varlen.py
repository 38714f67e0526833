"""Causal attention within each of the rows that lie one after the other, as an attention function of transformers.

It costs the sum of the squares of the rows' lengths. On a GPU, in half precision, it is one kernel: FlashAttention
(Dao, arXiv 2307.08691) with cumulative lengths, or that of cuDNN, as PyTorch chooses. Elsewhere rows are computed one
by one, which is what the kernel is tested against.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

VARLEN = "varlen"
"""The name of `varlen_attention` among transformers' implementations of attention."""
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""What a layer may ask of its attention beside causal attention, by transformers' names."""


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """See transformers' ``AttentionInterface``: ``query`` (B, heads, T, D), ``key`` and ``value`` with fewer heads.

    ``cu_seq_lens_q`` (R + 1,) int32 are the beginnings of the rows in B · T, and B · T; ``max_length_q`` is the longest
    row. Without them, this is ``sdpa``. Gives (B, T, heads, D). Raises `ValueError` for a layer whose attention is
    anything but causal.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    _refuse(module, max_length_q, others)
    batch, heads, width, _ = query.shape
    if torch.is_autocast_enabled(query.device.type):  # which knows sdpa, and not this
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    query, key, value = (each.transpose(1, 2).flatten(0, 1) for each in (query, key, value))
    if query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        output = _kernel(query, key, value, cu_seq_lens_q, max_length_q, scaling)
    else:
        output = _row_by_row(query, key, value, cu_seq_lens_q, dropout, scaling)
    return output.reshape(batch, width, heads, -1), None


def _refuse(module: nn.Module, longest: int, others: dict[str, Any]) -> None:
    asked = [name for name in _UNSUPPORTED if others.get(name) is not None]
    window = others.get("sliding_window")
    if window is not None and window < longest:
        asked.append(f"a window of {window} tokens")
    if not (others.get("is_causal") is not False and getattr(module, "is_causal", True)):
        asked.append("no causality")
    if asked:
        raise ValueError(f"{type(module).__name__} asks for {', '.join(asked)}")


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, cumulative_lengths: Tensor, longest: int, scale: float | None
) -> Tensor:
    """(tokens, heads, D) each."""
    from torch.nn.attention.varlen import varlen_attn

    # Older releases of PyTorch take fewer heads of keys without being told.
    grouped: Any = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    # One tensor for queries and keys: cuDNN asks for that.
    lengths = (cumulative_lengths, cumulative_lengths, longest, longest)
    output: Any = varlen_attn(query, key, value, *lengths, scale=scale, window_size=(-1, 0), **grouped)
    return output  # type: ignore[no-any-return]


def _row_by_row(
    query: Tensor, key: Tensor, value: Tensor, cumulative_lengths: Tensor, dropout: float, scale: float | None
) -> Tensor:
    """(tokens, heads, D) each."""

    def attend(begin: int, end: int) -> Tensor:
        """(1, heads, the row's tokens, D)"""
        q, k, v = (each[None, begin:end].transpose(1, 2) for each in (query, key, value))
        return scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=True)

    rows = [attend(begin, end) for begin, end in pairwise(cumulative_lengths.tolist())]
    return torch.cat(rows, dim=2)[0].transpose(0, 1)


AttentionInterface.register(VARLEN, varlen_attention)
