"""How the answers of one revision change in the next one."""

from __future__ import annotations

import pytest

from multitask_api.serving_io.verify import MAX_EXAMPLES
from multitask_trainer.evaluation.flips import RowAnswers, task_flips


def row(number: int, before: str, after: str, scores: tuple[float, float], margin: float | None = 1.0) -> RowAnswers:
    return RowAnswers(number, before, after, *scores, margin)


CHANGES = [
    # the answers before and after, their scores, the counts: right to wrong, wrong to right, wrong to wrong
    ("the same right answer", ("a", "a", (1, 1)), (0, 0, 0)),
    ("the same wrong answer", ("b", "b", (0, 0)), (0, 0, 0)),
    ("a right label becomes a wrong one", ("a", "b", (1, 0)), (1, 0, 0)),
    ("a wrong label becomes the right one", ("b", "a", (0, 1)), (0, 1, 0)),
    ("a wrong label becomes another wrong one", ("b", "c", (0, 0)), (0, 0, 1)),
    ("a text gets worse", ("one two", "one", (0.8, 0.4)), (1, 0, 0)),
    ("a text gets better", ("one", "one two", (0.4, 0.8)), (0, 1, 0)),
    ("a text changes and is as good as before", ("one", "two", (0.4, 0.4)), (0, 0, 1)),
]


@pytest.mark.parametrize(("answers", "counts"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_counts_by_what_the_row_is_worth(
    answers: tuple[str, str, tuple[float, float]], counts: tuple[int, int, int]
) -> None:
    others = [row(1, "a", "a", (1, 1)), row(2, "b", "b", (0, 0))]
    flips = task_flips([row(0, *answers), *others], "TestRows", name_answers=True)
    assert (flips.right_to_wrong, flips.wrong_to_right, flips.wrong_to_wrong) == counts
    assert (flips.compared, flips.changed, flips.basis) == (3, sum(counts), "TestRows")
    assert len(flips.nearest) == sum(counts)


def test_the_rows_nearest_to_a_tie_are_named_first_and_ten_at_most() -> None:
    margins = [0.5, None, 0.1, 0.1, *(1.0 + number for number in range(20))]
    rows = [row(100 + number, "a", "b", (1, 0), margin) for number, margin in enumerate(margins)]
    flips = task_flips(rows, "GoldenRows", name_answers=True)
    assert flips.right_to_wrong == 24
    assert [flip.row for flip in flips.nearest] == [102, 103, 100, *range(104, 111)]
    assert len(flips.nearest) == MAX_EXAMPLES
    assert (flips.nearest[0].before, flips.nearest[0].after, flips.nearest[0].margin) == ("a", "b", 0.1)


def test_texts_are_not_repeated() -> None:
    (flip,) = task_flips([row(7, "private", "words", (1, 0))], "TestRows", name_answers=False).nearest
    assert (flip.row, flip.before, flip.after) == (7, "", "")
