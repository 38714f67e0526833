"""What the operator asks of an API server, counted by the server's own audit log: watches, and what it has to write."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from devcluster import objects
from multitask_api.cluster import KIND_LABEL, PROGRESS_KEY
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import apply, make_model, status
from support.cluster.operator_process import run_operator

ALL = ("system:masters",)
MTM = "/apis/multitask.dev/v1alpha1/namespaces/{}/multitaskmodels/desk"


def requests(cluster, mark, user):
    """verb and resource of what was asked since ``mark``, without the watches."""
    rows = (
        (event["verb"], "/".join(filter(None, (target["resource"], target.get("subresource")))))
        for event in cluster.audited(mark, user)
        for target in [event["objectRef"]]
    )
    return Counter(f"{verb} {what}" for verb, what in rows if verb != "watch")


def wait_for_looks(running, more):
    """Wait until it has reconciled ``more`` times, and then rests."""
    served = running.healthz().json()["served"]

    def looked():
        more()
        return running.healthz().json()["served"] > served and running.is_idle()

    running.until("it reconciles", looked)


@pytest.fixture
def ready(rest, namespace):
    """A namespace with the claim that the model names."""
    objects.claim(rest, namespace, "models")
    return namespace


@pytest.mark.parametrize("references", [False, True], ids=["a model", "a model with labels in a ConfigMap"])
def test_looking_and_progress_cost_no_read(cluster, rest, ready, tmp_path, references):
    user = f"load-{references}".lower()
    resource = make_model("urgency")
    apply(cluster, ready, resource)
    if references:
        labels = {"metadata": {"name": "labels"}, "data": {"urgency": "\n".join(resource.spec.tasks[0].labels)}}
        objects.post(rest, f"/api/v1/namespaces/{ready}/configmaps", labels)
        tasks = objects.get(rest, MTM.format(ready))["spec"]["tasks"]
        del tasks[0]["labels"]
        tasks[0]["labelsFrom"] = {"name": "labels", "key": "urgency"}
        rest.patch(MTM.format(ready), json={"spec": {"tasks": tasks}}, headers=objects.MERGE).raise_for_status()
    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.user(user, ALL), tmp_path, ready) as running:
        running.until("the baseline waits for its pod", lambda: not pods.run_waiting(("baseline",)) and waiting(pods))
        running.until("it rests", running.is_idle)
        mark, count = cluster.audit_mark(), itertools.count(1)
        (job,) = {pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] for pod in pods.waiting()}

        def touch():
            change = {"metadata": {"labels": {"look": str(next(count))}}}
            rest.patch(MTM.format(ready), json=change, headers=objects.MERGE).raise_for_status()

        def report():
            progress = {"stage": "baseline/urgency", "step": next(count), "total": 1000, "updated": 1.0}
            change = {"data": {PROGRESS_KEY: json.dumps(progress)}}
            path = f"/api/v1/namespaces/{ready}/configmaps/{job}"
            rest.patch(path, json=change, headers=objects.MERGE).raise_for_status()

        for _ in range(3):
            wait_for_looks(running, touch)
            wait_for_looks(running, report)
        asked = requests(cluster, mark, user)
    assert set(asked) <= {"patch multitaskmodels/status"}
    assert asked.total() <= 1, "progress is written every 15 seconds"


def waiting(pods):
    return any(pod["metadata"]["labels"][KIND_LABEL] == "baseline" for pod in pods.waiting())


def test_what_it_did_itself_needs_no_second_look(cluster, ready, tmp_path):
    """A whole run: reads happen where something is created or deleted, and not again when a watch shows it."""
    user, resource = "load-run", make_model("urgency")
    mark = cluster.audit_mark()
    apply(cluster, ready, resource)
    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.user(user, ALL), tmp_path, ready) as running:
        running.until(
            "the model is trained",
            lambda: not pods.run_waiting() and status(cluster, ready).get("stage") == "Trained",
        )
        running.until("it rests", running.is_idle)
        asked = requests(cluster, mark, user)
    changes = sum(count for what, count in asked.items() if what.split()[0] in ("create", "delete"))
    live_looks = asked["get namespaces"]
    assert live_looks <= changes, asked
