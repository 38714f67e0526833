"""Served answers against the evaluated ones: equal, near ties, different. Pure.

A server forms other batches, and sums in another order differ in their last bits. An answer that differs is a near tie
only if the two likeliest answers were almost equal in the evaluation; any other difference is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from multitask_api.stage_io.results import Agreement
from multitask_trainer.evaluation.answers import Answer

NEAR_TIES = {"fp32": 1e-3, "bf16": 0.1}
"""Nats between the two likeliest labels, or tokens, below which either answer is right.

bf16 keeps 8 bits: another batch shape moved margins of a two-layer model by up to 0.034 nats, of fp32 by 5e-6.
"""


@dataclass(frozen=True)
class Difference:
    """One served answer that differs from the evaluated one, and the evaluation's margin at the difference."""

    row: int
    evaluated: str
    served: str
    margin: float
    limit: float

    @property
    def near_tie(self) -> bool:
        """The two likeliest were almost equal: less than ``limit`` nats apart."""
        return self.margin < self.limit


def differences(
    evaluated: Sequence[Answer], served: Sequence[str], limit: float = NEAR_TIES["fp32"]
) -> list[Difference]:
    """Every row whose answers differ; the two sequences have the same rows in the same order.

    ``limit`` is one of `NEAR_TIES`.
    """
    return [
        Difference(row, own.prediction, other, margin_at_difference(own, other), limit)
        for row, (own, other) in enumerate(zip(evaluated, served, strict=True))
        if own.prediction != other
    ]


def margin_at_difference(evaluated: Answer, served: str) -> float:
    """The margin where ``served`` leaves the evaluated answer: of the labels, or of the text's first difference.

    Of a text, the smallest margin from the token that wrote the last character before the difference to the one that
    wrote the first differing character, or the end if there is none. All of these may have decided: the same
    characters may come in other tokens, a character may take several tokens (of bytes), and what may begin a stop
    string is held back until a later token shows that it does not.
    """
    if not evaluated.margins:
        return evaluated.margin
    pairs = enumerate(zip(evaluated.prediction, served, strict=False))
    shorter = min(len(evaluated.prediction), len(served))
    same = next((index for index, (own, other) in pairs if own != other), shorter)
    last = len(evaluated.ends) - 1
    at = next((index for index, end in enumerate(evaluated.ends) if end > same), last)
    wrote = [own > before for before, own in pairwise((0, *evaluated.ends[:at]))]
    first = max((index for index, did in enumerate(wrote) if did), default=0)
    return min(evaluated.margins[first : at + 1])


def agreement(compared: int, differing: Sequence[Difference]) -> Agreement:
    """The counts."""
    ties = sum(difference.near_tie for difference in differing)
    return Agreement(
        compared=compared, equal=compared - len(differing), near_ties=ties, different=len(differing) - ties
    )


def total_agreement(tasks: Iterable[Agreement]) -> Agreement:
    """The counts of all tasks together."""
    agreements = list(tasks)
    return Agreement(
        compared=sum(task.compared for task in agreements),
        equal=sum(task.equal for task in agreements),
        near_ties=sum(task.near_ties for task in agreements),
        different=sum(task.different for task in agreements),
    )
