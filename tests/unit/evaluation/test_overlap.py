"""Test rows that are in a train split."""

from __future__ import annotations

import numpy as np
import pytest

from multitask_trainer.data.rows import Row, input_hashes
from multitask_trainer.evaluation.overlap import is_notable, overlapping_rows


def hashes(*texts, field="text"):
    return input_hashes([Row({field: text}, label="a") for text in texts])


def test_overlap_is_with_any_tasks_train_whatever_case_space_and_field_name():
    test = hashes("My order  is late", "new", "Refund me")
    own, other = hashes("my order is late", "x"), hashes("refund  ME", field="message")
    assert list(overlapping_rows(test, [own])) == [True, False, False]
    assert list(overlapping_rows(test, [own, other])) == [True, False, True]
    assert not overlapping_rows(test, []).any()


@pytest.mark.parametrize(
    ("hits", "rows", "expected"), [(0, 100, False), (1, 100, False), (2, 100, True), (5, 5, False)]
)
def test_ratio_without_overlap_above_one_percent(hits, rows, expected):
    assert is_notable(np.arange(rows) < hits) is expected
    assert is_notable(np.zeros(0, dtype=bool)) is False
