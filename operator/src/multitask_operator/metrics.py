"""What ``GET /metrics`` shows, in Prometheus' format. Names and labels are a contract with dashboards and alerts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from multitask_kubernetes.errors import Request
from multitask_operator.cluster.cache import JOB, MODEL, Cache
from multitask_operator.queue import Schedule

#: Seconds of a reconcile: one without requests takes milliseconds, one that is refused again and again minutes.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counts what happens; what is, is read from ``cache`` and `follow`'s queue when somebody asks."""

    def __init__(self, cache: Cache) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter(
            "multitask_operator_reconciles_total",
            "Reconciles of a model that have ended.",
            ["result"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "multitask_operator_reconcile_duration_seconds",
            "Time that one reconcile took.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "multitask_operator_api_requests_total",
            "Requests to the API server; a watch counts when it begins.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        for result in ("success", "error", "timeout", "fault"):
            self._reconciles.labels(result)  # shown from the start, so that a rate over it is right
        self.registry.register(_Objects(cache))

    def follow(self, schedule: Schedule[Any]) -> None:
        """Show the queue of ``schedule`` too."""
        self.registry.register(_Queue(schedule))

    def reconciled(self, result: str, seconds: float) -> None:
        """A reconcile has ended; see `Queue`."""
        self._reconciles.labels(result).inc()
        self._seconds.observe(seconds)

    def requested(self, request: Request, code: str) -> None:
        """The API server has answered with the HTTP status ``code``."""
        self._requests.labels(request.verb, request.resource, code).inc()


class _Queue:
    def __init__(self, schedule: Schedule[Any]) -> None:
        self._schedule = schedule

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client calls it."""
        schedule = self._schedule
        yield _gauge("multitask_operator_queue_depth", "Models that are due and wait for a worker.", schedule.due())
        yield _gauge("multitask_operator_queue_running", "Models that are being reconciled.", schedule.running())
        yield _gauge(
            "multitask_operator_queue_oldest_seconds",
            "Time for which the oldest model has been due without its reconcile having ended.",
            schedule.oldest(),
        )


class _Objects:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client calls it."""
        faults = len(self._cache.faults())
        yield _gauge("multitask_operator_watch_faults", "Reasons why something cannot be watched now.", faults)
        models = GaugeMetricFamily("multitask_models", "MultiTaskModels by state.", labels=["namespace", "state"])
        jobs = GaugeMetricFamily("multitask_jobs", "Stage Jobs by state.", labels=["namespace", "stage", "state"])
        for family, kind in ((models, MODEL), (jobs, JOB)):
            for labels, count in sorted(self._cache.counts(kind).items()):
                family.add_metric(labels, count)
            yield family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
