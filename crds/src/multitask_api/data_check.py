"""The report on a resource's data that ``python -m multitask_trainer.jobs.data_check --json`` prints."""

from __future__ import annotations

from pydantic import Field

from multitask_api.stage_io.results import SplitRows
from multitask_api.types import Record


class DataProblem(Record):
    """One reason why a task's data cannot be used; ``path`` as in ``spec.tasks[2].data.train``."""

    path: str
    message: str


class TaskRows(Record):
    """The valid rows of one task, and warnings about them."""

    name: str
    rows: SplitRows
    bad_rows: int = 0
    warnings: tuple[str, ...] = ()


class DataReport(Record):
    """All problems of all tasks."""

    problems: tuple[DataProblem, ...] = ()
    hints: tuple[str, ...] = Field((), description="Settings that are valid but probably not intended.")
    tasks: tuple[TaskRows, ...] = Field((), description="One entry for each task, in the order of the spec.")
