"""``TaskRoute``: which backends answer which task. The gateway reads it from the cluster or from a file.

Gateways of two releases live side by side, so readers ignore fields that they do not know.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from multitask_api.resource.tasks import MAX_FIELD_NAME_LENGTH, MAX_PROMPT_FIELDS, Label
from multitask_api.types import Record

FieldName = Annotated[str, StringConstraints(max_length=MAX_FIELD_NAME_LENGTH)]


class RouteRecord(Record):
    """A record that a newer release may have extended."""

    model_config = ConfigDict(extra="ignore")


class Backend(RouteRecord):
    """The Triton servers of one revision, and their part of a task's traffic."""

    service: str = Field(
        max_length=253,
        description="In a cluster the name of a Service in the namespace of the TaskRoute, whose EndpointSlices give "
        "the servers. In a file the host name or IP address of the one server.",
    )
    port: int = Field(ge=1, le=65535, description="gRPC port of the server.")
    weight: int = Field(
        100,
        ge=0,
        le=100,
        description="Percentage of the requests that go to this backend. The weights of a task sum to 100, or are all "
        "0: then only requests that name a revision are answered.",
    )
    revision: str = Field(max_length=64, description="The trained revision that this backend serves.")


class RoutedTask(RouteRecord):
    """A task, what callers may learn about it, and its backends."""

    name: str = Field(max_length=63, description="Name of the task, as callers give it.")
    type: Literal["Classification", "Generation"] = Field(
        description="Classification answers with one of the labels, Generation with free text."
    )
    fields: tuple[FieldName, ...] = Field(
        max_length=MAX_PROMPT_FIELDS, description="Names of the fields that a request must have."
    )
    labels: tuple[Label, ...] = Field(
        (), max_length=256, description="All labels of a Classification task; empty for Generation."
    )
    served_by: str = Field(
        "",
        max_length=253,
        description="The group whose shared model answers, or baseline for the task's single-task model. Empty: not "
        "stated.",
    )
    window: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None,
        description="Gateways count the task's requests from 0 when this changes: a new step of a rollout has begun.",
    )
    backends: tuple[Backend, ...] = Field(
        min_length=1, max_length=8, description="The servers that answer the task, at least one."
    )

    @model_validator(mode="after")
    def _weights(self) -> RoutedTask:
        total = sum(backend.weight for backend in self.backends)
        if total not in (0, 100):
            raise ValueError(f"weights of task {self.name!r} sum to {total}, not 100")
        return self


class TaskRouteSpec(RouteRecord):
    """The routes of one model."""

    namespace: str = Field(
        "default",
        max_length=63,
        description="Namespace of the model; the first part of the full task name NAMESPACE/MODEL/TASK.",
    )
    model: str = Field(
        max_length=63, description="Name of the model; the second part of the full task name NAMESPACE/MODEL/TASK."
    )
    tasks: tuple[RoutedTask, ...] = Field((), max_length=128, description="The tasks, each with its backends.")

    @property
    def revisions(self) -> frozenset[str]:
        """The revisions that the table names, whatever their weights."""
        return frozenset(backend.revision for task in self.tasks for backend in task.backends)


class RouteMetadata(RouteRecord):
    """The object's name."""

    name: str = Field(max_length=253)
    namespace: str | None = None


class GatewayAck(RouteRecord):
    """One gateway says which table it follows. Each gateway applies its own entry."""

    name: str = Field(max_length=253, description="Name of the gateway's pod.")
    observed_generation: int = Field(description="The metadata.generation of the table that it follows.")
    time: str = Field(max_length=40, description="When it began to follow that table.")


class Measurements(RouteRecord):
    """How the measurements of a task ended in the present step; at most one in every `interval`."""

    successful: int = Field(0, ge=0, description="No worse than before.")
    failed: int = Field(0, ge=0, description="Surely worse than before.")
    inconclusive: int = Field(0, ge=0, description="Worse than before, on too few requests to be sure.")
    consecutive_errors: int = Field(0, ge=0, description="The latest ones, if no gateway could be asked.")


class PreviousFigures(RouteRecord):
    """What the old revision did, in the latest step in which it had enough requests to compare with."""

    requests: int = Field(ge=0, description="Requests that ended.")
    errors: int = Field(ge=0, description="Those that ended with an error.")
    p95_seconds: float | None = Field(None, ge=0, description="95th percentile of their duration.")


class ChangedAnswers(RouteRecord):
    """How many of a task's rows the new revision answers otherwise than the old one, before it has traffic."""

    compared: int = Field(ge=0, description="Rows that both revisions were asked.")
    right_to_wrong: int = Field(0, ge=0, description="Rows that only the old revision answers right.")
    wrong_to_right: int = Field(0, ge=0, description="Rows that only the new revision answers right.")
    wrong_to_wrong: int = Field(0, ge=0, description="Rows that both answer wrong, each in its own way.")


class TaskRollout(RouteRecord):
    """How one task fares in a rollout."""

    name: str = Field(max_length=63, description="Name of the task.")
    phase: Literal["Running", "Successful", "Failed", "Error", "Inconclusive", "Excluded"] = Field(
        description="Running: in the present step. Successful: passed the last step. Failed: worse than before, and "
        "back on its old revision; a new task is not routed any more. Error: could not be analysed. Inconclusive: too "
        "little evidence. Excluded: does not take part, because another revision answers it better."
    )
    passed_on: Literal["traffic", "golden", "cut-over"] | None = Field(
        None,
        description="What the last step was passed on: live requests, golden requests because there were too few live "
        "ones, or cut-over: the task's contract changed, so that both revisions cannot answer it, and it has not been "
        "measured yet.",
    )
    step_passed: bool = Field(False, description="Whether it has passed the step under way.")
    measurements: Measurements | None = Field(
        None, description="How the measurements of the step ended. Absent: there was none."
    )
    previous: PreviousFigures | None = Field(
        None, description="What it is compared with where the old revision has no traffic any more."
    )
    changed_answers: ChangedAnswers | None = Field(
        None, description="How its answers change. Absent: it was not compared with the old revision."
    )
    message: str = Field("", max_length=512, description="The figures that decided.")


class RejectedRevision(RouteRecord):
    """A revision that is not tried again by itself."""

    revision: str = Field(max_length=64, description="The revision.")
    task: str = Field("", max_length=63, description="The task that it is rejected for. Empty: for all tasks.")
    reason: str = Field(max_length=64, description="Why, as one CamelCase word.")
    message: str = Field("", max_length=512, description="Why, for people.")
    time: str = Field(max_length=40, description="When.")


class ServedRevision(RouteRecord):
    """What a revision has answered alone. A person may go back to it without the steps of a rollout."""

    revision: str = Field(max_length=64, description="The revision.")
    tasks: tuple[Annotated[str, StringConstraints(max_length=63)], ...] = Field(
        (), max_length=128, description="The tasks of which it has had all traffic outside of a rollout."
    )


class RolloutState(RouteRecord):
    """How far the traffic has moved from one revision to the next."""

    revision: str = Field(max_length=64, description="The revision that takes over.")
    stable: str = Field("", max_length=64, description="The revision that served before. Empty: none did.")
    phase: Literal["Verifying", "Progressing", "Paused", "Successful", "Failed", "Aborted"] = Field(
        description="Verifying: its answers are compared with those of its evaluation, before it gets traffic. "
        "Progressing: a step is under way. Paused: it waits for a time, or for somebody. Successful, Failed, Aborted: "
        "over."
    )
    step: int = Field(0, ge=0, description="The step under way, counted from 0.")
    weight: int = Field(0, ge=0, le=100, description="Percentage of the traffic that the new revision gets.")
    step_started: str | None = Field(None, max_length=40, description="When the step began.")
    message: str = Field("", max_length=512, description="What it waits for, or why it is over.")
    tasks: tuple[TaskRollout, ...] = Field((), max_length=256, description="One entry for each task.")
    measured: str | None = Field(None, max_length=40, description="When the step's latest measurement was made.")
    finished: str | None = Field(None, max_length=40, description="When the rollout was over.")
    order: str = Field("", max_length=256, description="The latest order of an annotation that was carried out.")
    retry: str = Field("", max_length=256, description="The latest retry of an annotation that was carried out.")
    approved: str = Field(
        "", max_length=64, description="The id that the rollout was approved with; its step goes by the same settings."
    )
    gives_way: Literal["PodByPod", "Downtime"] | None = Field(
        None,
        description="How the servers that answered before make room, because the cluster has none for two revisions. "
        "PodByPod: one server at a time. Downtime: all of them at once. Absent: there is room.",
    )
    gives_way_servers: int | None = Field(
        None,
        ge=0,
        description="How many servers there were then. Of so many one is missing at most, also if an autoscaler asks "
        "for more.",
    )
    gives_way_since: str | None = Field(None, max_length=40, description="When they began to.")


class TaskRouteStatus(RouteRecord):
    """What the gateways follow, and how a rollout goes on."""

    gateways: tuple[GatewayAck, ...] = Field((), max_length=64, description="One entry for each gateway.")
    rollout: RolloutState | None = Field(None, description="The latest rollout. Absent: there was none.")
    rejected: tuple[RejectedRevision, ...] = Field(
        (), max_length=256, description="Revisions that are not tried again, the newest last."
    )
    served: tuple[ServedRevision, ...] = Field(
        (), max_length=128, description="Kept revisions that have served, the oldest first."
    )


class TaskRoute(RouteRecord):
    """The backends that answer each task of a model. Gateways read it, from the cluster or from a file."""

    api_version: Literal["multitask.dev/v1alpha1"] = Field(
        "multitask.dev/v1alpha1", description="Version of this schema: multitask.dev/v1alpha1."
    )
    kind: Literal["TaskRoute"] = Field("TaskRoute", description="Kind of this resource: TaskRoute.")
    metadata: RouteMetadata
    spec: TaskRouteSpec = Field(description="The routes of one model.")
    status: TaskRouteStatus | None = Field(None, description="What gateways and operator say about it.")
