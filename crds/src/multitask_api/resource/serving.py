"""How the result is served in a cluster."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag, WithJsonSchema, model_validator

from multitask_api.errors import Problem, raise_problems
from multitask_api.resource.pod_templates import FreeForm
from multitask_api.types import Record


def _seconds(value: object) -> object:
    """``90``, ``"90"``, ``"90s"``, ``"5m"`` or ``"1h"`` in seconds."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no duration; write seconds, or a text such as 90s, 5m or 1h")
    return int(match[1]) * _UNITS[match[2]]


_DURATION = re.compile(r"([0-9]{1,9})([smh]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
Duration = Annotated[
    int,
    BeforeValidator(_seconds),
    Field(ge=0, le=31_536_000),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": f"^{_DURATION.pattern}$"}),
]
"""Seconds, or a text as `90s`, `5m` or `1h`."""


class Analysis(Record):
    """How a step decides, task by task, whether the new revision is as good as the old one.

    A task fails if it is surely worse, passes if it is not worse, and is measured again if the requests do not tell.
    """

    interval: Duration | None = Field(
        None, description="Seconds from one measurement to the next, or a text such as 30s or 5m. Default: 30."
    )
    initial_delay: Duration | None = Field(
        None, description="Seconds from the beginning of the step to the first measurement. Default: 0."
    )
    count: int | None = Field(
        None, ge=1, le=1000, description="Successful measurements of a task that it needs to pass. Default: 1."
    )
    min_requests: int | None = Field(
        None,
        ge=0,
        description="Requests of a task to the new revision without which it is not measured. Default: minRequests of "
        "the rollout.",
    )
    max_step_seconds: int | None = Field(
        None,
        ge=1,
        description="Seconds after which golden requests decide for a task with fewer requests. Default: "
        "maxStepSeconds of the rollout.",
    )
    failure_limit: int | None = Field(
        None, ge=0, le=1000, description="Failed measurements that a task is allowed. Default: 0."
    )
    inconclusive_limit: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Inconclusive measurements of a task after which the rollout waits for a person. Default: 20.",
    )
    consecutive_error_limit: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Measurements in a row for which no gateway answered, before a task shows Error. It goes on as "
        "soon as one answers. Default: 4.",
    )
    max_error_rate_increase: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How much higher than that of the old revision the error rate may be. Default: 0.01, one point.",
    )
    max_latency_ratio: float | None = Field(
        None,
        ge=1,
        le=1000,
        description="How many times that of the old revision the 95th percentile of the duration may be. Default: 1.5.",
    )
    max_accuracy_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How much lower than that of the old revision the share of right answers may be, where labels are "
        "reported later. Default: 0.01, one point.",
    )


class Pause(Record):
    """A wait in a rollout."""

    duration: Duration | None = Field(
        None,
        description="Seconds, or a text such as 90s, 5m or 1h. Default: until `mtm rollout resume`.",
    )


class RolloutStep(Record):
    """One step; exactly one of the fields is given."""

    set_weight: int | None = Field(
        None, ge=1, le=100, description="Percentage of the traffic that the new revision gets from here on."
    )
    pause: Pause | None = Field(None, description="Wait, whatever the traffic shows.")
    analysis: Analysis | None = Field(
        None, description="Wait until every task has passed. Fields that are not given have the rollout's values."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(item is not None for item in (self.set_weight, self.pause, self.analysis)) != 1:
            raise_problems([Problem("", "has to be one of setWeight, pause and analysis")])
        return self


Weight = Annotated[int, Field(ge=1, le=100)]
#: `resource.parsing` leaves the tags, in parentheses, out of the paths that it shows.
AnyStep = Annotated[
    Annotated[Weight, Tag("(percentage)")] | Annotated[RolloutStep, Tag("(step)")],
    Discriminator(lambda value: "(step)" if isinstance(value, dict | RolloutStep) else "(percentage)"),
]


class Rollout(Record):
    """How traffic moves from one revision to the next."""

    steps: Annotated[tuple[AnyStep, ...], Field(min_length=1, max_length=32)] = Field(
        (10, 50, 100),
        description="Percentages of the traffic that the new revision gets, one step after the other; a step ends when "
        "every task has passed its analysis. Or single steps, each one of setWeight: PERCENT, pause: {duration: "
        "SECONDS} and analysis: {}. Percentages rise and end with 100.",
    )
    min_requests: int = Field(
        50, ge=0, description="Requests of a task to the new revision after which that task is evaluated in a step."
    )
    max_step_seconds: int = Field(
        600,
        ge=1,
        description="Seconds after which a step does not wait for minRequests any longer: golden requests decide for "
        "the tasks that have fewer.",
    )
    analysis: Analysis | None = Field(
        None,
        description="How a step decides whether the new revision is as good as the old one. Default: as its "
        "fields say.",
    )
    max_regressions: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The largest share of a task's test rows that the old revision answers right and the new one "
        "wrong; a task with more, or whose answers cannot be compared, keeps its old revision. Default: any.",
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        short = [step for step in self.steps if isinstance(step, int)]
        if short and len(short) != len(self.steps):
            raise_problems([Problem("steps", "gives percentages and single steps; use one of both forms")])
        weights = short or [step.set_weight for step in self.steps if isinstance(step, RolloutStep) and step.set_weight]
        if not weights or weights != sorted(set(weights)) or weights[-1] != 100:
            raise_problems([Problem("steps", f"must rise and end with 100, got {weights}")])
        if isinstance(self.steps[0], RolloutStep) and self.steps[0].set_weight is None:
            raise_problems([Problem("steps", "must begin with setWeight: before it no traffic could be analysed")])
        return self


class Serving(Record):
    """The servers of the result in a cluster."""

    replicas: int = Field(
        1,
        ge=0,
        le=1000,
        description="Number of server pods of a revision, also through the scale subresource. 0: nobody answers.",
    )
    resources: FreeForm = Field(
        default_factory=dict,
        description="Resources of the server container, with requests and limits as in a Pod. A change makes a new "
        "revision. Default: requests of one CPU, and memory for the models.",
    )
    rollout: Rollout = Field(Rollout(), description="How traffic moves from one revision to the next.")
    approval: Literal["Automatic", "Manual"] | None = Field(
        None,
        description="Manual: a new revision gets no traffic before the annotation multitask.dev/approved is the id in "
        "status.approval. The id changes with the revision, the rollout settings and the test data. Default: "
        "Automatic.",
    )
    pinned_revision: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None,
        description="Serve this revision instead of the newest one: at once if it has served before, else by the steps "
        "of a rollout. Default: the newest.",
    )
    allow_downtime: bool = Field(
        False,
        description="Where the cluster has no room for a second revision, and servers cannot be exchanged one by one "
        "because there is only one: end the old revision's servers, then start those of the new one. Nobody answers "
        "meanwhile. false: the new revision waits for room.",
    )
    pod_template: FreeForm = Field(
        default_factory=dict,
        description="Additions to the server pods (metadata and spec). A change makes a new revision. Default: no "
        "additions.",
    )
