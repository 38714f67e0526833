"""How tasks are divided into groups, and what is done about those that a group does not suit."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from multitask_api.errors import Problem, raise_problems
from multitask_api.types import Record


class Diagnosis(Record):
    """What is done about a task that does not reach the threshold."""

    check: bool = Field(
        False,
        description="Train two short runs for each task below the threshold that other tasks of its group hurt by "
        "their gradients: one with those tasks, and one without them.",
    )


class Filtering(Record):
    """How tasks are divided into groups. Each group trains one shared model (stage 1 of arXiv 2411.03644)."""

    strategy: Literal["Type", "Taxonomy", "Manual", "Affinity", "None"] = Field(
        "Type",
        description="Type: classification and generation apart. Taxonomy: binary, ordinal and multi-class "
        "classification apart too. Manual: by the group of each task. Affinity: as Type, and tasks apart whose "
        "gradients at the base model oppose each other. None: all tasks in one group.",
    )
    max_groups: int | None = Field(
        None,
        ge=1,
        le=128,
        description="Affinity: the most groups there may be, all types together. Default: no limit.",
    )
    rows: int | None = Field(
        None,
        ge=64,
        le=8192,
        description="Affinity: training rows of each task whose gradients are taken. Default: 256.",
    )
    diagnosis: Diagnosis | None = Field(
        None,
        description="Affinity: what is done about a task that does not reach the threshold. Default: the report names "
        "the tasks that hurt it, unchecked.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = ("max_groups", "rows", "diagnosis")
        raise_problems(
            Problem(to_camel(name), f"is for strategy Affinity, and the strategy is {self.strategy}; remove it")
            for name in given
            if self.strategy != "Affinity" and getattr(self, name) is not None
        )
        return self

    @property
    def checks(self) -> bool:
        """Whether a task below the threshold is trained without those that hurt it."""
        return self.diagnosis is not None and self.diagnosis.check
