"""How the result is served in a cluster."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from multitask_api.errors import Problem, raise_problems
from multitask_api.resource.pod_templates import FreeForm
from multitask_api.types import Record


class Rollout(Record):
    """How traffic moves from one revision to the next. Not acted on yet."""

    steps: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(min_length=1, max_length=10)] = Field(
        (10, 50, 100),
        description="Percentages of the traffic that the new revision gets, one step after the other. They rise and "
        "end with 100.",
    )
    min_requests: int = Field(
        50, ge=0, description="Requests of a task to the new revision after which that task is evaluated in a step."
    )
    max_step_seconds: int = Field(
        600, ge=1, description="Seconds after which a step ends even with fewer requests than minRequests."
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)) or self.steps[-1] != 100:
            raise_problems([Problem("steps", f"must rise and end with 100, got {list(self.steps)}")])
        return self


class Serving(Record):
    """The servers of the result in a cluster. Accepted but not acted on yet: the operator starts no servers."""

    replicas: int = Field(1, ge=0, le=1000, description="Number of server pods. Not acted on yet.")
    resources: FreeForm = Field(
        default_factory=dict,
        description="Resources of the server container, with requests and limits as in a Pod. Default: none. Not acted "
        "on yet.",
    )
    rollout: Rollout = Field(
        Rollout(), description="How traffic moves from one revision to the next. Not acted on yet."
    )
    pinned_revision: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Serve this revision instead of the newest one. Default: the newest. Not acted on yet."
    )
    allow_downtime: bool = Field(
        False,
        description="If there is no room for two revisions at once, stop the old one before the new one starts. Not "
        "acted on yet.",
    )
    pod_template: FreeForm = Field(
        default_factory=dict,
        description="Additions to the server pods (metadata and spec). Default: no additions. Not acted on yet.",
    )
