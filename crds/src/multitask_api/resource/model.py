"""The ``MultiTaskModel`` object: a resource file, and the custom resource in a cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multitask_api.resource.spec import Metadata, MultiTaskModelSpec
from multitask_api.resource.status import MultiTaskModelStatus
from multitask_api.types import Record

API_VERSION = "multitask.dev/v1alpha1"


class MultiTaskModel(Record):
    """Text tasks that are trained together, so that one server answers them as well as one model per task would."""

    api_version: Literal["multitask.dev/v1alpha1"] = Field(
        "multitask.dev/v1alpha1", description="Version of this schema: multitask.dev/v1alpha1."
    )
    kind: Literal["MultiTaskModel"] = Field("MultiTaskModel", description="Kind of this resource: MultiTaskModel.")
    metadata: Metadata
    spec: MultiTaskModelSpec = Field(
        description="The tasks, how to train them together, and when a task is good enough for the shared model."
    )
    status: MultiTaskModelStatus | None = Field(
        None, description="The state of training and its results. Written by the operator only."
    )
