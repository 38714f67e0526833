"""What charts, dashboards, scalers and callers name of the gateway's program, as in version 0.1.0."""

from __future__ import annotations

import asyncio

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_client.messages import KEY_METADATA, REVISION_METADATA
from multitask_serving.gateway import service
from multitask_serving.gateway.cluster import settings
from multitask_serving.gateway.cluster.cluster_routes import ClusterRoutes
from multitask_serving.gateway.cluster.metrics import GatewayMetrics
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.server import serving_gateway

SETTINGS = {
    "listen": "MULTITASK_GATEWAY_LISTEN",
    "state-listen": "MULTITASK_GATEWAY_STATE_LISTEN",
    "namespaces": "MULTITASK_NAMESPACES",
    "short-name-namespaces": "MULTITASK_SHORT_NAME_NAMESPACES",
    "name": "POD_NAME",
    "callers-file": "MULTITASK_CALLERS_FILE",
    "review-tokens": "MULTITASK_REVIEW_TOKENS",
    "tls-folder": "MULTITASK_TLS_FOLDER",
    "mutual-tls-listen": "MULTITASK_MUTUAL_TLS_LISTEN",
    "label-key-file": "MULTITASK_LABEL_KEY_FILE",
    "max-connection-age-s": "MULTITASK_MAX_CONNECTION_AGE_SECONDS",
    "drain-delay-s": "MULTITASK_DRAIN_DELAY_SECONDS",
    "drain-s": "MULTITASK_DRAIN_SECONDS",
}
TASK = {"namespace", "model", "task", "revision"}
MODEL = {"namespace", "model"}
METRICS = {
    "multitask_gateway_requests_total": TASK | {"code"},
    "multitask_gateway_request_duration_seconds_bucket": TASK | {"le"},
    "multitask_gateway_request_duration_seconds_sum": TASK,
    "multitask_gateway_request_duration_seconds_count": TASK,
    "multitask_gateway_in_flight_requests": MODEL,
    "multitask_gateway_labels_total": TASK | {"answer"},
    "multitask_gateway_retries_total": MODEL,
    "multitask_gateway_retries_refused_total": MODEL,
    "multitask_gateway_servers": {"namespace", "service", "revision"},
    "multitask_gateway_route_tables": set(),
    "multitask_gateway_invalid_route_tables": set(),
    "multitask_gateway_watch_faults": set(),
}


def test_variables_and_options():
    assert {option: variable for option, (variable, *_) in settings.OPTIONS.items()} == SETTINGS


def test_metadata_of_a_call():
    assert (service.REVISION_METADATA, service.KEY_METADATA) == ("mtm-revision", "mtm-key")
    assert (REVISION_METADATA, KEY_METADATA) == ("mtm-revision", "mtm-key")


def test_metrics_and_their_labels():
    async def collected() -> dict[str, set[str]]:
        backend = Backend(service="desk-serve-r1", port=8001, revision="r1")
        task = RoutedTask(name="urgency", type="Generation", fields=("text",), backends=(backend,))
        spec = TaskRouteSpec(namespace="team", model="desk", tasks=(task,))
        routes = ClusterRoutes((), "gateway-a")
        routes.table = RouteTable([TaskRoute(metadata=RouteMetadata(name="desk"), spec=spec)])
        async with serving_gateway(lambda: routes.table, routes, "127.0.0.1:0") as gateway:
            gateway.stats.begin("team/desk/urgency", "r1").end(seconds=0.1)
            gateway.stats.follow(routes.table)
            gateway.stats.count_label("team/desk/urgency", "r1", "", is_right=True)
            gateway.dispatcher.retries["team/desk"] += 1
            gateway.dispatcher.retries_refused["team/desk"] += 1
            families = list(GatewayMetrics(gateway, routes).registry.collect())
        return {sample.name: set(sample.labels) for family in families for sample in family.samples}

    assert asyncio.run(collected()) == METRICS
