"""How reports show test rows that are also in a train split. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from multitask_api.report import ReportTask
from multitask_operator.formatting import number

OVERLAP_LEGEND = (
    "in train: test rows that are also in a train split, of any task; ratio without: the ratio without them. "
    "With * the verdict is by that ratio"
)


def has_overlap(tasks: Iterable[ReportTask]) -> bool:
    """Whether a table of these tasks shows them."""
    return any(task.overlap_rows for task in tasks)


def overlap_share(task: ReportTask) -> str:
    """``85/160``, or a dash if no test row is in a train split."""
    return f"{task.overlap_rows:,}/{task.rows.test:,}" if task.overlap_rows else "–"


def ratio_without_overlap(task: ReportTask) -> str:
    """The ratio without these rows, with a star if the verdict is by it; a dash where there is none."""
    return number(task.ratio_without_overlap) + ("*" if task.judged_without_overlap else "")
