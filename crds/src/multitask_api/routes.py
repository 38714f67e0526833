"""``TaskRoute``: which backends answer which task. The gateway reads it, from the cluster or from a file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from multitask_api.resource.tasks import LONGEST_FIELD, MOST_FIELDS, Label
from multitask_api.types import Record

FieldName = Annotated[str, StringConstraints(max_length=LONGEST_FIELD)]


class Backend(Record):
    """One place that can answer a task; ``weight`` is its share in percent."""

    service: str = Field(max_length=253, description="Host name or address.")
    port: int = Field(ge=1, le=65535)
    weight: int = Field(100, ge=0, le=100)
    revision: str = Field(max_length=64)


class RoutedTask(Record):
    """A task, what a caller may learn about it, and its backends."""

    name: str = Field(max_length=63)
    type: Literal["Classification", "Generation"]
    fields: tuple[FieldName, ...] = Field(
        max_length=MOST_FIELDS, description="Names of the fields a request must carry."
    )
    labels: tuple[Label, ...] = Field((), max_length=256)
    served_by: str = Field("", max_length=253, description="The group whose mixture answers, or `baseline`.")
    backends: tuple[Backend, ...] = Field(min_length=1, max_length=8)

    @model_validator(mode="after")
    def _weights(self) -> RoutedTask:
        total = sum(backend.weight for backend in self.backends)
        if total != 100:
            raise ValueError(f"weights of task {self.name!r} sum to {total}, not 100")
        return self


class TaskRouteSpec(Record):
    """The routes of one model."""

    namespace: str = Field("default", max_length=63)
    model: str = Field(max_length=63)
    tasks: tuple[RoutedTask, ...] = Field((), max_length=128)


class RouteMetadata(Record):
    """The object's name."""

    name: str = Field(max_length=253)
    namespace: str | None = None


class TaskRoute(Record):
    """The resource; a local route file holds exactly this."""

    api_version: Literal["multitask.dev/v1alpha1"] = "multitask.dev/v1alpha1"
    kind: Literal["TaskRoute"] = "TaskRoute"
    metadata: RouteMetadata
    spec: TaskRouteSpec
