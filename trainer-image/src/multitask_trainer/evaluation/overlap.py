"""Test rows that some task was trained on: the same input, after case and white space are evened out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multitask_api.stage_io.overlap import NOTABLE_OVERLAP

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

ENOUGH_ROWS = 50
"""As many other rows have to be left for a verdict without those in a train split: from 50 rows and an accuracy of 0.9
a ratio is known to about ±0.09, which is just enough for a verdict."""


@dataclass(frozen=True)
class Overlap:
    """How many of ``test_rows`` rows are in a train split (``rows``)."""

    rows: int = 0
    test_rows: int = 0

    @staticmethod
    def of(mask: Mask) -> Overlap:
        """The count of a mask from `overlapping_rows`."""
        return Overlap(int(mask.sum()), len(mask))

    @property
    def kept_rows(self) -> int:
        """The rows that are in no train split."""
        return self.test_rows - self.rows

    @property
    def is_notable(self) -> bool:
        """More than 1 % of the rows overlap."""
        return self.rows > NOTABLE_OVERLAP * self.test_rows

    @property
    def is_total(self) -> bool:
        """No row is left that is in no train split."""
        return self.rows > 0 and self.kept_rows == 0

    @property
    def is_left_out(self) -> bool:
        """Whether the verdict is taken without these rows."""
        return self.is_notable and self.kept_rows >= ENOUGH_ROWS


def overlapping_rows(test: Hashes, trains: Iterable[Hashes]) -> Mask:
    """(rows,) true where the test row's input is in any of the train splits (every task's, not only its own)."""
    overlap = np.zeros(len(test), dtype=np.bool_)
    for train in trains:
        overlap |= np.isin(test, train)
    return overlap
