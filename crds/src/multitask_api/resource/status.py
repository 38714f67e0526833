"""``MultiTaskModel.status``: output only; no decision reads it but for ``lastTransitionTime``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from multitask_api.types import Record

Short = Annotated[str, StringConstraints(max_length=64)]
Message = Annotated[str, StringConstraints(max_length=1024)]


class Condition(Record):
    """A Kubernetes condition; ``Unknown`` means it could not be checked."""

    type: Short
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=64)]
    message: Message = ""
    observed_generation: int | None = None
    last_transition_time: Annotated[str, StringConstraints(max_length=40)] | None = None


class TaskStatus(Record):
    """One row a task."""

    name: Annotated[str, StringConstraints(max_length=63)]
    group: Short | None = None
    baseline: float | None = None
    score: float | None = None
    ratio: float | None = None
    verdict: Literal["Qualified", "NotQualified", "Inconclusive", "NoBaseline"] | None = None
    served_by: Short | None = None


class StageStatus(Record):
    """The stages of one kind, taken together."""

    name: Short
    total: int = 0
    done: int = 0
    running: int = 0
    failed: int = 0
    progress: Short | None = None


class MultiTaskModelStatus(Record):
    """What ``kubectl get mtm`` and ``mtm status`` show."""

    observed_generation: int | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    stage: Short | None = None
    progress: Short | None = None
    progress_time: Short | None = Field(None, description="When this status was written.")
    qualified: Short | None = Field(None, description="As in 14/17.")
    revision: Short | None = None
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=12)] = ()
    tasks: Annotated[tuple[TaskStatus, ...], Field(max_length=128)] = ()
