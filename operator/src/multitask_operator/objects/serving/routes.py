"""The TaskRoute of a model: which revisions answer which task. And its copy."""

from __future__ import annotations

from multitask_api.cluster import CONFIGMAP_LIMIT
from multitask_api.resource.model import API_VERSION
from multitask_api.routes import TaskRoute, TaskRouteSpec
from multitask_api.serving_io.names import ROUTE_COPY_KEY, SERVING
from multitask_api.types import JsonDict
from multitask_operator.objects.names import Owner, object_metadata
from multitask_operator.objects.serving.names import route_copy_name


def task_route(owner: Owner, spec: TaskRouteSpec) -> JsonDict:
    """The table that the gateways follow; it has the model's name."""
    item = object_metadata(owner, API_VERSION, "TaskRoute", owner.name, of=SERVING)
    item["spec"] = spec.to_json()
    return item


def route_copy(owner: Owner, route: TaskRoute) -> JsonDict | None:
    """The ConfigMap from which ``route`` is made again. None: it is larger than a ConfigMap may be."""
    text = route.model_dump_json(by_alias=True, exclude_none=True)
    if len(text.encode()) > CONFIGMAP_LIMIT:
        return None
    item = object_metadata(owner, "v1", "ConfigMap", route_copy_name(owner.name), of=SERVING)
    item["data"] = {ROUTE_COPY_KEY: text}
    return item
