"""Test rows that some task was trained on: the same input, after case and white space are evened out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

NOTABLE_SHARE = 0.01
"""Above this share of test rows the ratio is also given without them."""


def overlapping_rows(test: Hashes, trains: Iterable[Hashes]) -> Mask:
    """(rows,) true where the test row's input is in any of the train splits (every task's, not only its own)."""
    overlap = np.zeros(len(test), dtype=np.bool_)
    for train in trains:
        overlap |= np.isin(test, train)
    return overlap


def is_notable(overlap: Mask) -> bool:
    """More than 1 % of the rows overlap, and some do not."""
    return bool(overlap.mean() > NOTABLE_SHARE and not overlap.all()) if len(overlap) else False
