"""``TaskRoute``: which backends answer which task. The gateway reads it from the cluster or from a file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from multitask_api.resource.tasks import MAX_FIELD_NAME_LENGTH, MAX_PROMPT_FIELDS, Label
from multitask_api.types import Record

FieldName = Annotated[str, StringConstraints(max_length=MAX_FIELD_NAME_LENGTH)]


class Backend(Record):
    """A Triton server that answers a task, and its part of the traffic."""

    service: str = Field(max_length=253, description="Host name or IP address of the server.")
    port: int = Field(ge=1, le=65535, description="gRPC port of the server.")
    weight: int = Field(
        100,
        ge=0,
        le=100,
        description="Percentage of the requests that go to this backend. The weights of a task sum to 100.",
    )
    revision: str = Field(max_length=64, description="The trained revision that this backend serves.")


class RoutedTask(Record):
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
    backends: tuple[Backend, ...] = Field(
        min_length=1, max_length=8, description="The servers that answer the task, at least one."
    )

    @model_validator(mode="after")
    def _weights(self) -> RoutedTask:
        total = sum(backend.weight for backend in self.backends)
        if total != 100:
            raise ValueError(f"weights of task {self.name!r} sum to {total}, not 100")
        return self


class TaskRouteSpec(Record):
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


class RouteMetadata(Record):
    """The object's name."""

    name: str = Field(max_length=253)
    namespace: str | None = None


class TaskRoute(Record):
    """The backends that answer each task of a model. The gateway reads it, for now from a file only."""

    api_version: Literal["multitask.dev/v1alpha1"] = Field(
        "multitask.dev/v1alpha1", description="Version of this schema: multitask.dev/v1alpha1."
    )
    kind: Literal["TaskRoute"] = Field("TaskRoute", description="Kind of this resource: TaskRoute.")
    metadata: RouteMetadata
    spec: TaskRouteSpec = Field(description="The routes of one model.")
