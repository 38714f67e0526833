"""The text of a field: the one rule by which a value in a row becomes text, in training and when a file is asked."""

from __future__ import annotations

import math


def field_text(value: object) -> str | None:
    """Strings as they are, numbers and booleans as JSON writes them; None for what is no text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return None
