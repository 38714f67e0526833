"""How a training on a GPU keeps rows that share a sequence apart: by their lengths (varlen attention), or by a mask.

What is known before a model is loaded. Training asks the same, and then tries varlen attention before it uses it.
"""

from __future__ import annotations


def mask_reason(
    *, max_length: int, in_full_precision: bool, window: int | None, has_attention_dropout: bool
) -> str | None:
    """Why rows of at most ``max_length`` tokens need a mask, in words; None if nothing is known.

    ``window``: tokens that the narrowest layer sees; None: all.
    """
    if in_full_precision:
        return "the kernel of varlen attention takes half precision only"
    if window is not None and window < max_length:
        return f"layers see no more than {window} tokens, and rows may have {max_length}"
    if has_attention_dropout:
        return "the base model drops attention at random"
    return None
