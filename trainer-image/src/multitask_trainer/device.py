"""Which device a stage runs on."""

from __future__ import annotations


def resolve_device(wanted: str) -> str:
    """``auto`` is cuda where there is one, else cpu; anything else is taken at its word."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
