"""``mtm-operator`` as a process, against a real API server: it watches, it ends, it survives, and it writes in no idle
moment. What it decides is tested elsewhere; here a decision is only something that is seen to have been taken."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from devcluster import objects
from devcluster.cluster_client import ClusterClient, Object
from devcluster.control_plane import ControlPlane
from integration.cluster.conftest import CRDS, install_crds
from support.cluster import resources
from support.cluster.operator_process import EXECUTABLE, run_operator

MODELS = "/apis/multitask.dev/v1alpha1/namespaces/{}/multitaskmodels"


def create(rest: httpx.Client, namespace: str, body: Object) -> None:
    objects.post(rest, MODELS.format(namespace), body)


def conditions(rest: httpx.Client, namespace: str, name: str = "desk") -> dict[str, str]:
    """Condition type -> reason; empty while there is no status."""
    status = objects.get(rest, f"{MODELS.format(namespace)}/{name}").get("status", {})
    return {condition["type"]: condition["reason"] for condition in status.get("conditions", ())}


def claims(rest: httpx.Client, namespace: str) -> None:
    for name in ("data", "models"):
        objects.claim(rest, namespace, name)


def jobs(rest: httpx.Client, namespace: str) -> list[str]:
    items = objects.get(rest, f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    return [job["metadata"]["name"] for job in items]


def test_a_model_is_noticed_and_the_program_ends_at_sigterm(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    with run_operator(cluster.admin, tmp_path, namespace) as running:
        running.until("it is up", lambda: "health on port" in running.log_text())
        create(rest, namespace, resources.model())
        running.until("the model has conditions", lambda: "Ready" in conditions(rest, namespace))
        claims(rest, namespace)
        rest.patch(
            f"{MODELS.format(namespace)}/desk",
            json={"metadata": {"annotations": {"looked": "at"}}},
            headers=objects.MERGE,
        ).raise_for_status()
        running.until("the first Job is there", lambda: len(jobs(rest, namespace)) == 1)
        health = running.healthz()
        assert health.status_code == 200
        assert health.json()["served"] >= 2
        assert running.stop() == 0
    assert "Traceback" not in running.log_text()


def test_nothing_is_written_when_nothing_happens(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    claims(rest, namespace)
    create(rest, namespace, resources.model())
    with run_operator(cluster.admin, tmp_path, namespace, MULTITASK_RESYNC_SECONDS="10") as running:
        running.until("the first Job is there", lambda: len(jobs(rest, namespace)) == 1)
        served = running.healthz().json()["served"]
        running.until("its events have been looked at", lambda: running.healthz().json()["served"] >= served + 2)
        mark = cluster.audit_mark()
        served = running.healthz().json()["served"]
        running.until("three more reconciles", lambda: running.healthz().json()["served"] >= served + 3)
        written = [line for line in cluster.writes(mark) if f" {namespace}/" in line]
    assert written == []


def test_no_finalizers_and_no_annotations_are_left_on_anything(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    claims(rest, namespace)
    create(rest, namespace, resources.model())
    with run_operator(cluster.admin, tmp_path, namespace) as running:
        running.until("the first Job is there", lambda: len(jobs(rest, namespace)) == 1)
        running.until("its events have been looked at", lambda: running.healthz().json()["served"] >= 2)
    metadata = objects.get(rest, f"{MODELS.format(namespace)}/desk")["metadata"]
    assert "finalizers" not in metadata
    assert "annotations" not in metadata


def test_a_broken_model_does_not_keep_the_next_one_waiting(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    claims(rest, namespace)
    with run_operator(cluster.admin, tmp_path, namespace, MULTITASK_WORKERS="1") as running:
        running.until("it is up", lambda: "health on port" in running.log_text())
        # a ConfigMap of the name that its own would have, and not its own
        create(rest, namespace, resources.model("broken"))
        blocker = {"metadata": {"name": "broken-run-1"}, "data": {"mine": "yes"}}
        objects.post(rest, f"/api/v1/namespaces/{namespace}/configmaps", blocker)
        create(rest, namespace, resources.model("fine"))
        running.until("the fine one has a Job", lambda: any(name.startswith("fine-") for name in jobs(rest, namespace)))


def test_it_waits_for_the_crd_and_survives_its_removal_and_a_restart_of_the_api_server(
    own_cluster: ControlPlane, tmp_path: Path
) -> None:
    client = own_cluster.client
    with client.rest() as rest, run_operator(client.admin, tmp_path) as running:
        client.kubectl("delete", "--filename", str(CRDS), "--wait=true")
        missing = "the cluster does not know the kind MultiTaskModel: install the CRDs"
        running.until("it says that the CRD is missing", lambda: missing in running.log_text())
        running.until("it is not ready", lambda: missing in running.readyz().json()["fault"])
        install_crds(client)
        objects.namespace(rest, "team-a")
        create(rest, "team-a", resources.model("first"))
        running.until("the first model is seen", lambda: "Ready" in conditions(rest, "team-a", "first"))
        running.until("it is ready", lambda: running.readyz().status_code == 200)
        own_cluster.restart_api_server(signal.SIGKILL)
        create(rest, "team-a", resources.model("second"))
        running.until("the second model is seen", lambda: "Ready" in conditions(rest, "team-a", "second"))
        assert running.process.poll() is None
        assert running.healthz().status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "x"), "mtm-operator: --workers: 'x' is not a whole number from 1 to 256"),
        (("--kubeconfig", "/none"), "mtm-operator: there is no kubeconfig at /none; name one with --kubeconfig"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(arguments: Sequence[str], message: str) -> None:
    done = subprocess.run(
        [str(EXECUTABLE), "--trainer-image", "example.test/trainer:1", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()[0][: len(message)]) == (2, message)
