"""Digests over normalised values: what means the same gives the same digest, in every process and version."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

DIGEST_LENGTH = 12


def canonical(value: object) -> object:
    """Reduce ``value`` to plain data in which equal meaning is equal text (2 and 2.0, tuple and list, key order)."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError("a digest cannot cover NaN or infinity")
        return int(value) if float(value).is_integer() else float(value)
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence):
        return [canonical(item) for item in value]
    raise TypeError(f"a digest cannot cover a {type(value).__name__}")


def digest(value: object, length: int = DIGEST_LENGTH) -> str:
    """The first ``length`` hexadecimal digits of SHA-256 over the canonical JSON of ``value``."""
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]
