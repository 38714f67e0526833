"""What ``GET /metrics`` shows."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from multitask_kubernetes.errors import Request
from multitask_operator.cluster.cache import Cache
from multitask_operator.health import served
from multitask_operator.metrics import Metrics
from multitask_operator.queue import Queue, Schedule

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "monitor.md"
LABELS = {"app.kubernetes.io/managed-by": "multitask-operator", "multitask.dev/model": "desk"}


def item(kind, api_version, name, **fields):
    metadata = {
        "namespace": "team",
        "name": name,
        "uid": name,
        "resourceVersion": "1",
        "labels": fields.pop("labels", {}),
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def model(name, **status):
    return item("MultiTaskModel", "multitask.dev/v1alpha1", name, status=status)


def job(name, kind="baseline", suspend=False, **status):
    labels = {**LABELS, "multitask.dev/kind": kind}
    return item("Job", "batch/v1", name, labels=labels, spec={"suspend": suspend}, status=status)


def condition(kind):
    return {"conditions": [{"type": kind, "status": "True"}]}


OBJECTS = {
    "models": [
        model("a"),
        model("b", stage="baseline"),
        model("c", stage="mixture"),
        model("d", stage="Trained"),
        model("e", stage="Blocked"),
    ],
    "jobs": [
        job("a"),
        job("b", ready=1, active=1),
        job("c", suspend=True),
        job("d", **condition("Complete")),
        job("e", kind="mixture", **condition("Failed")),
    ],
}


def test_models_and_jobs_by_state():
    cache = Cache(())
    metrics = Metrics(cache)
    for each in (*OBJECTS["models"], *OBJECTS["jobs"]):
        cache.saw(each)

    def value(name, **labels):
        return metrics.registry.get_sample_value(name, {"namespace": "team", **labels})

    states = {state: value("multitask_models", state=state) for state in ("Pending", "Training", "Trained", "Blocked")}
    assert states == {"Pending": 1, "Training": 2, "Trained": 1, "Blocked": 1}
    baselines = {
        state: value("multitask_jobs", stage="baseline", state=state)
        for state in ("Pending", "Running", "Suspended", "Succeeded")
    }
    assert baselines == dict.fromkeys(baselines, 1)
    assert value("multitask_jobs", stage="mixture", state="Failed") == 1


class Refused(Exception):
    pass


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_they_are_scraped_from_the_port_of_the_probes(accept):
    async def reconcile(key):
        if key == "bad":
            raise Refused

    metrics = Metrics(Cache(()))
    queue = Queue(reconcile, workers=1, limit=1, schedule=Schedule(lambda: 0.0), on_end=metrics.reconciled)
    metrics.follow(queue.schedule)
    for key in ("good", "bad"):
        queue.schedule.add(key)
        taken = queue.schedule.take()
        await queue._slots.acquire()
        await queue._work(taken)
    queue.schedule.add("waits")
    queue.schedule.add("later", 60.0)
    metrics.requested(Request("list", "jobs.batch", "team", None), "403")
    async with (
        served(queue, "127.0.0.1", 0, 100, lambda: None, metrics.registry) as port,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text" if accept else "text/plain")
    samples = {
        (sample.name, *(text for _, text in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text.removesuffix("# EOF\n"))
        for sample in family.samples
    }
    assert samples["multitask_operator_reconciles_total", "success"] == 1
    assert samples["multitask_operator_reconciles_total", "fault"] == 1
    assert samples["multitask_operator_reconcile_duration_seconds_count",] == 2
    assert samples["multitask_operator_queue_depth",] == 1
    assert samples["multitask_operator_api_requests_total", "403", "jobs.batch", "list"] == 1


def test_the_page_has_every_metric_with_its_labels():
    cache = Cache(())
    metrics = Metrics(cache)
    metrics.follow(Queue(None, workers=1, limit=1).schedule)
    metrics.requested(Request("get", "namespaces", None, "team"), "200")
    cache.saw(model("a"))
    cache.saw(job("a"))
    exported = {}
    for family in metrics.registry.collect():
        names = set().union(*(sample.labels for sample in family.samples)) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exported[name] = names
    rows = re.findall(r"^\| `(multitask_\w+)` \|([^|]*)\|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == exported
