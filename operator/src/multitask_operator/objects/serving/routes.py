"""The TaskRoute of a model: which revisions answer which task."""

from __future__ import annotations

from multitask_api.resource.model import API_VERSION
from multitask_api.routes import TaskRouteSpec
from multitask_api.serving_io.names import SERVING
from multitask_api.types import JsonDict
from multitask_operator.objects.names import Owner, object_metadata


def task_route(owner: Owner, spec: TaskRouteSpec) -> JsonDict:
    """The table that the gateways follow; it has the model's name."""
    item = object_metadata(owner, API_VERSION, "TaskRoute", owner.name, of=SERVING)
    item["spec"] = spec.to_json()
    return item
