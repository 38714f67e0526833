"""Test rows that are in a train split."""

from __future__ import annotations

import numpy as np
import pytest

from multitask_trainer.data.rows import Row, input_hashes
from multitask_trainer.evaluation.overlap import Overlap, overlapping_rows


def hashes(*texts, field="text"):
    return input_hashes([Row({field: text}, label="a") for text in texts])


def test_overlap_is_with_any_tasks_train_whatever_case_space_and_field_name():
    test = hashes("My order  is late", "new", "Refund me")
    own, other = hashes("my order is late", "x"), hashes("refund  ME", field="message")
    assert list(overlapping_rows(test, [own])) == [True, False, False]
    assert list(overlapping_rows(test, [own, other])) == [True, False, True]
    assert not overlapping_rows(test, []).any()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Die Bestellung ist überfällig", "die bestellung ist u\u0308berfa\u0308llig"),
        ("café", "CAFE\u0301"),
        ("가방", "\u1100\u1161\u1107\u1161\u11bc"),
        ("ΐ", "\u0399\u0308\u0301"),  # its case folds into three characters
    ],
)
def test_composed_and_decomposed_letters_are_the_same_input(train, test):
    assert overlapping_rows(hashes(test), [hashes(train)]).all()
    (one, other) = (int(hashes(text)[0]) for text in (train, test))
    assert one == other, "so that a split puts both forms on one side"


@pytest.mark.parametrize(
    ("hits", "rows", "notable", "left_out"),
    [
        (0, 100, False, False),
        (1, 100, False, False),
        (2, 100, True, True),
        (85, 160, True, True),
        (50, 100, True, True),
        (51, 100, True, False),
        (5, 5, True, False),
        (0, 0, False, False),
    ],
)
def test_rows_are_left_out_above_one_percent_where_fifty_are_left(hits, rows, notable, left_out):
    overlap = Overlap.of(np.arange(rows) < hits)
    assert (overlap.rows, overlap.test_rows) == (hits, rows)
    assert (overlap.is_notable, overlap.is_left_out) == (notable, left_out)
