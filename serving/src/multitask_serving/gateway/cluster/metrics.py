"""What ``GET /metrics`` shows, in Prometheus' format. Names and labels are a contract with dashboards and scalers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from multitask_api.serving_io.gateway_state import LATENCY_BUCKETS_S
from multitask_serving.gateway.cluster.cluster_routes import ClusterRoutes
from multitask_serving.gateway.server import Gateway
from multitask_serving.gateway.stats import TaskCounts

PREFIX = "multitask_gateway"
TASK = ("namespace", "model", "task", "revision")


class GatewayMetrics:
    """Reads everything when it is asked for."""

    def __init__(self, gateway: Gateway, routes: ClusterRoutes) -> None:
        self.registry = CollectorRegistry()
        self._gateway = gateway
        self._routes = routes
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client calls it."""
        counts = self._gateway.stats.snapshot()
        yield from self._requests(counts)
        yield self._in_flight(counts)
        yield self._labels(counts)
        yield from self._retries()
        yield from self._tables()

    def _requests(self, every: Mapping[tuple[str, str], TaskCounts]) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            f"{PREFIX}_requests", "Requests sent to a revision, by how they ended.", labels=[*TASK, "code"]
        )
        seconds = HistogramMetricFamily(
            f"{PREFIX}_request_duration_seconds", "Time of successful requests.", labels=TASK
        )
        for (task, revision), counts in sorted(every.items()):
            labels = [*task.split("/"), revision]
            requests.add_metric([*labels, "OK"], counts.successes)
            for code, count in sorted(counts.errors.items()):
                requests.add_metric([*labels, code], count)
            seconds.add_metric(labels, _buckets(counts), counts.seconds)
        yield requests
        yield seconds

    def _labels(self, every: Mapping[tuple[str, str], TaskCounts]) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}_labels",
            "Labels that were reported for answers, by what the answer was.",
            labels=[*TASK, "answer"],
        )
        for (task, revision), counts in sorted(every.items()):
            if counts.labels is not None:
                for answer, count in (("right", counts.labels.right), ("wrong", counts.labels.wrong)):
                    family.add_metric([*task.split("/"), revision, answer], count)
        return family

    def _in_flight(self, every: Mapping[tuple[str, str], TaskCounts]) -> Metric:
        """By model, for autoscalers: also 0, because a series that is absent scales nothing."""
        family = GaugeMetricFamily(
            f"{PREFIX}_in_flight_requests", "Requests that have not ended.", labels=["namespace", "model"]
        )
        running = Counter(dict.fromkeys((route.model for route in self._gateway.table.routes), 0))
        for (task, _), counts in every.items():
            running[task.rpartition("/")[0]] += counts.in_flight
        for model, count in sorted(running.items()):
            family.add_metric(model.split("/"), count)
        return family

    def _retries(self) -> Iterator[Metric]:
        dispatcher = self._gateway.dispatcher
        for name, text, counts in (
            ("retries", "Requests sent to another server.", dispatcher.retries),
            (
                "retries_refused",
                "Requests that failed because there were too many retries.",
                dispatcher.retries_refused,
            ),
        ):
            family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["namespace", "model"])
            for model, count in sorted(counts.items()):
                family.add_metric(model.split("/"), count)
            yield family

    def _tables(self) -> Iterator[Metric]:
        tables = self._routes.followed().values()
        faults = sum(bool(each.fault) for each in tables)
        yield GaugeMetricFamily(f"{PREFIX}_route_tables", "TaskRoutes that are known.", value=len(tables))
        yield GaugeMetricFamily(
            f"{PREFIX}_invalid_route_tables", "TaskRoutes whose newest version is not followed.", value=faults
        )
        watches = len(self._routes.faults())
        yield GaugeMetricFamily(f"{PREFIX}_watch_faults", "Reasons why routes are not kept current now.", value=watches)
        servers = GaugeMetricFamily(
            f"{PREFIX}_servers", "Servers that get requests.", labels=["namespace", "service", "revision"]
        )
        services = self._gateway.table.services()
        for (namespace, service, _), backend in sorted(services.items(), key=lambda item: item[0]):
            count = len(self._routes.addresses(namespace, backend))
            servers.add_metric([namespace, service, backend.revision], count)
        yield servers


def _buckets(counts: TaskCounts) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus has them."""
    buckets, total = [], 0
    for bound, count in zip((*map(str, LATENCY_BUCKETS_S), "+Inf"), counts.latencies, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
