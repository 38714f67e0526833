"""The precisions that a model can be served in."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16"]
