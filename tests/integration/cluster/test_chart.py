"""The chart and a real API server: objects are taken, an upgrade keeps what it made, and an uninstall what it says."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from devcluster import chart, objects
from devcluster.chart import CHART
from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane
from multitask_api.serving_io.names import GATEWAY_PORT
from support.cluster import resources

FROZEN = Path(__file__).parents[2] / "fixtures" / "frozen"
RELEASE, NAMESPACE, GATEWAY, OPERATOR = "mtm", "operators", "mtm-gateway", "mtm-multitask-operator"
MODELS = "/apis/multitask.dev/v1alpha1/namespaces/default/multitaskmodels"

# sentence, values
INSTALLATIONS = [
    ("as it is", {}),
    ("some namespaces", {"namespaces": ["default", "kube-system"]}),
    ("training alone", {"serving": {"enabled": False}, "gateway": {"enabled": False}}),
    (
        "without TLS and callers",
        {"gateway": {"tls": {"mode": "None"}, "callers": {"enabled": False}, "service": {"type": "LoadBalancer"}}},
    ),
    (
        "a certificate from elsewhere, with a port for callers' certificates",
        {
            "gateway": {
                "tls": {"mode": "Secret", "secretName": "mine"},
                "mutualTLS": {"enabled": True},
                "callers": {"existingSecret": "callers"},
                "autoscaling": {"enabled": True},
                "networkPolicy": {"from": [{"namespaceSelector": {}}], "metricsFrom": []},
                "extraEnv": [{"name": "A", "value": "b"}],
                "tolerations": [{"key": "k", "operator": "Exists"}],
                "podAnnotations": {"a": "b"},
            },
            "test": {"apiKeySecret": "t", "task": "urgency", "fields": {"text": 'a "b"'}},
        },
    ),
    (
        "all switches of Kubernetes' own kinds",
        {
            "networkPolicy": {"enabled": True},
            "metrics": {"grafanaDashboard": {"enabled": True}},
            "imageRegistry": "registry.example/mirror",
            "proxy": {"https": "http://proxy:3128"},
            "caBundle": {"configMap": "ca"},
            "hubEndpoint": "https://hub.example",
            "openshift": True,
            "gangScheduling": "Volcano",
        },
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _helm() -> None:
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")


@pytest.mark.parametrize(("sentence", "values"), INSTALLATIONS, ids=[row[0] for row in INSTALLATIONS])
def test_the_api_server_takes_every_object(
    cluster: ClusterClient, namespace: str, tmp_path: Path, sentence: str, values: dict[str, Any]
) -> None:
    (tmp_path / "values.json").write_text(json.dumps(values))
    rendered = chart.rendered("--values", str(tmp_path / "values.json"), namespace=namespace)
    kinds = {item["kind"] for item in rendered}
    assert {"Deployment", "ServiceAccount", "CustomResourceDefinition"} <= kinds
    command = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    cluster.kubectl(*command, "--filename", "-", stdin=rendered)


class Helm:
    """helm against one control plane."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What comes of a command."""
        program = chart.helm()
        assert program is not None
        argv = [program, *arguments, "--namespace", NAMESPACE, "--kubeconfig", str(self._client.admin)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def fresh(tmp_path: Path, _able: None) -> Iterator[tuple[ClusterClient, Helm]]:
    """A control plane without the CRDs."""
    with ControlPlane(tmp_path / "cluster") as plane:
        yield plane.client, Helm(plane.client)


def secrets_of(rest: httpx.Client) -> dict[str, dict[str, str]]:
    """Name → data of the release's Secrets."""
    items = objects.get(rest, f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]
    return {item["metadata"]["name"]: item["data"] for item in items if item["metadata"]["name"].startswith(GATEWAY)}


def test_an_upgrade_from_the_first_chart_keeps_what_there_is(fresh: tuple[ClusterClient, Helm], tmp_path: Path) -> None:
    # That of the next chart, with revisions and traffic, is a step of tests/e2e/in_cluster.
    client, helm = fresh
    with tarfile.open(FROZEN / "chart-0.1.0-first.tgz") as archive:
        archive.extractall(tmp_path / "first", filter="data")
    helm("install", RELEASE, str(tmp_path / "first/multitask-operator"), "--create-namespace")
    with client.rest() as rest:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
        operator = objects.get(rest, f"{path}/{OPERATOR}")["metadata"]["uid"]
        model = objects.post(rest, MODELS, resources.model("desk"))["metadata"]

        # A label in the first chart is a selector for ever: it cannot change.
        helm("upgrade", RELEASE, str(CHART))

        assert objects.get(rest, f"{path}/{OPERATOR}")["metadata"]["uid"] == operator
        kept = objects.get(rest, f"{MODELS}/desk")["metadata"]
        assert (kept["uid"], kept["generation"]) == (model["uid"], model["generation"])
        assert objects.get(rest, f"{path}/{GATEWAY}")["spec"]["replicas"] == 2


def test_a_release_from_its_installation_to_its_end(fresh: tuple[ClusterClient, Helm]) -> None:
    client, helm = fresh
    notes = helm("install", RELEASE, str(CHART), "--create-namespace")
    assert "kubectl apply --server-side" in notes
    assert f"Programs in the cluster call {GATEWAY}.{NAMESPACE}.svc:{GATEWAY_PORT}." in notes
    assert f"helm test {RELEASE} -n {NAMESPACE}" in notes
    with client.rest() as rest:
        made = secrets_of(rest)
        assert set(made) == {f"{GATEWAY}-{what}" for what in ("key", "callers", "tls")}
        assert key_as_the_notes_say(client, notes) == made[f"{GATEWAY}-key"]["api-key"]

        helm("upgrade", RELEASE, str(CHART), "--set", "gateway.replicas=3")
        assert secrets_of(rest) == made, "an upgrade changes neither key nor certificate"

        objects.post(rest, MODELS, resources.model("desk"))
        helm("uninstall", RELEASE, "--wait")
        assert objects.get(rest, f"{MODELS}/desk")["metadata"]["name"] == "desk"
        assert secrets_of(rest) == {}
        left = labelled(client)
        assert left == set(), "nothing of the release is left but the CRDs"


def key_as_the_notes_say(client: ClusterClient, notes: str) -> str:
    """The key that the command in the notes gives, encoded as in the Secret."""
    (line,) = [line for line in notes.splitlines() if f"secret -n {NAMESPACE} {GATEWAY}-key" in line]
    template = line.partition("go-template='")[2].partition("'")[0].replace(" | base64decode", "")
    found: str = client.kubectl(
        "get", "secret", "-n", NAMESPACE, f"{GATEWAY}-key", "-o", f"go-template={template}"
    ).stdout
    return found


def labelled(client: ClusterClient) -> set[str]:
    """KIND/NAME of all objects with the label of the release."""
    kinds = (
        "deployments,services,secrets,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    )
    kinds += ",networkpolicies,poddisruptionbudgets,horizontalpodautoscalers"
    found = client.get(kinds, "--all-namespaces", "--selector", f"app.kubernetes.io/instance={RELEASE}")
    return {f"{item['kind']}/{item['metadata']['name']}" for item in found["items"]}


def test_certificate_and_key_are_made_again_when_they_are_deleted(fresh: tuple[ClusterClient, Helm]) -> None:
    client, helm = fresh
    helm("install", RELEASE, str(CHART), "--create-namespace")
    other_names = ("upgrade", RELEASE, str(CHART), "--set", "gateway.tls.dnsNames={gateway.example.com}")
    refused = helm.run(*other_names)
    assert refused.returncode != 0
    assert f"gateway.tls.dnsNames has changed, and the generated certificate is for {GATEWAY}," in refused.stderr
    assert f"delete the Secret {GATEWAY}-tls" in refused.stderr
    with client.rest() as rest:
        before = secrets_of(rest)
        for name in before:
            rest.delete(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
        helm(*other_names)
        after = secrets_of(rest)
    assert after.keys() == before.keys()
    assert not [name for name in before if after[name] == before[name]]
