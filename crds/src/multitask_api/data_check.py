"""What a look at the data of a resource gives: ``python -m multitask_trainer.stages.data_check`` prints it as JSON."""

from __future__ import annotations

from pydantic import Field

from multitask_api.stage_io.results import SplitRows
from multitask_api.types import Record


class DataProblem(Record):
    """One thing that keeps a task's data from being used; ``path`` as in ``spec.tasks[2].data.train``."""

    path: str
    message: str


class TaskRows(Record):
    """The good rows of one task, and what is odd about them."""

    name: str
    rows: SplitRows
    bad_rows: int = 0
    warnings: tuple[str, ...] = ()


class DataReport(Record):
    """All problems of all tasks at once."""

    problems: tuple[DataProblem, ...] = ()
    hints: tuple[str, ...] = Field((), description="What is allowed in the spec and seldom meant.")
    tasks: tuple[TaskRows, ...] = Field((), description="One entry a task, in the order of the spec.")
