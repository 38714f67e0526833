"""How the answers of one revision change in the next one: which way, and at which rows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from multitask_api.serving_io.verify import MAX_EXAMPLES, Flip, TaskFlips

Basis = Literal["TestRows", "GoldenRows"]


@dataclass(frozen=True)
class RowAnswers:
    """The answers of both revisions to one row; scores are those of `metrics.row_scores`.

    ``margin``: nats by which the new answer leads its second best one; None: not measured.
    """

    row: int
    before: str
    after: str
    score_before: float
    score_after: float
    margin: float | None

    @property
    def change(self) -> Literal["RightToWrong", "WrongToRight", "WrongToWrong"]:
        """Which way an answer changes: by the scores, as a text has more than one right form."""
        if self.score_after < self.score_before:
            return "RightToWrong"
        return "WrongToRight" if self.score_after > self.score_before else "WrongToWrong"


def task_flips(rows: Sequence[RowAnswers], basis: Basis, *, name_answers: bool) -> TaskFlips:
    """The counts, and the changed rows nearest to a tie; ``name_answers`` for labels, as texts are not repeated."""
    changed = [row for row in rows if row.before != row.after]
    counts = Counter(row.change for row in changed)
    nearest = sorted(changed, key=lambda row: (float("inf") if row.margin is None else row.margin, row.row))
    return TaskFlips(
        compared=len(rows),
        right_to_wrong=counts["RightToWrong"],
        wrong_to_right=counts["WrongToRight"],
        wrong_to_wrong=counts["WrongToWrong"],
        basis=basis,
        nearest=tuple(
            Flip(
                row=row.row,
                change=row.change,
                margin=row.margin,
                before=row.before if name_answers else "",
                after=row.after if name_answers else "",
            )
            for row in nearest[:MAX_EXAMPLES]
        ),
    )
