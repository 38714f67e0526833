"""The operator's metrics, scraped while it works against a real API server, and held against the server's audit log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from support.cluster import resources
from support.cluster.operator_process import OperatorProcess, run_operator


def scrape(running: OperatorProcess) -> dict[tuple[str, ...], float]:
    """(name, the labels' values in the order of their names …) → value."""
    return {
        (sample.name, *(text for _, text in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(running.metrics().text)
        for sample in family.samples
    }


def test_what_is_scraped_is_what_the_server_saw(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    for name in ("data", "models"):
        objects.claim(rest, namespace, name)
    user = "measured"
    mark = cluster.audit_mark()
    with run_operator(cluster.user(user, ["system:masters"]), tmp_path, namespace) as running:
        path = f"/apis/multitask.dev/v1alpha1/namespaces/{namespace}/multitaskmodels"
        objects.post(rest, path, resources.model())

        def begun() -> bool:
            return scrape(running).get(("multitask_jobs", namespace, "resolve", "Pending")) == 1

        running.until("it is up", lambda: "health on port" in running.log_text())
        running.until("the first Job is counted", begun)
        running.until("it rests", running.is_idle)
        samples = scrape(running)
        audited = cluster.audited(mark, user)
    assert samples["multitask_models", namespace, "Pending"] == 1
    assert samples["multitask_operator_reconciles_total", "success"] >= 1
    assert samples["multitask_operator_reconciles_total", "fault"] == 0
    assert samples["multitask_operator_watch_faults",] == 0
    assert samples["multitask_operator_queue_oldest_seconds",] == 0
    seen = Counter(
        (event["verb"], event["objectRef"]["resource"], str(event["responseStatus"]["code"]))
        for event in audited
        if event["verb"] in ("create", "patch", "delete") and event["objectRef"].get("subresource") is None
    )
    counted = Counter(
        {
            (verb, resource.partition(".")[0], code): int(value)
            for (name, *labels), value in samples.items()
            if name == "multitask_operator_api_requests_total"
            for code, resource, verb in [labels]
            if verb in ("create", "patch", "delete") and "/" not in resource
        }
    )
    assert counted == seen
    assert seen["create", "jobs", "201"] == 1
