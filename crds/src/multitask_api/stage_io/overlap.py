"""Test rows that are also in a train split: what trainer and reports have to judge alike."""

from __future__ import annotations

NOTABLE_OVERLAP = 0.01
"""Up to this share of test rows in a train split a verdict is the same, and nobody is warned."""
LEAKED_TEST_ROWS = "LeakedTestRows"
"""The cause of a verdict that is open because all test rows are in a train split."""
