"""The ``MultiTaskModel`` object."""

from __future__ import annotations

from typing import Literal

from multitask_api.resource.spec import Metadata, MultiTaskModelSpec
from multitask_api.resource.status import MultiTaskModelStatus
from multitask_api.types import Record

API_VERSION = "multitask.dev/v1alpha1"


class MultiTaskModel(Record):
    """A resource file, and the custom resource in a cluster."""

    api_version: Literal["multitask.dev/v1alpha1"] = "multitask.dev/v1alpha1"
    kind: Literal["MultiTaskModel"] = "MultiTaskModel"
    metadata: Metadata
    spec: MultiTaskModelSpec
    status: MultiTaskModelStatus | None = None
