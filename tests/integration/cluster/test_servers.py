"""Servers of a model on a real API server with its controllers; the test plays kubelets, stage pods and gateways."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.processes import until
from multitask_api.cluster import KIND_LABEL
from multitask_api.serving_io.names import SERVING
from support.cluster.model_factory import make_model
from support.cluster.served_model import GATEWAY, SECONDS, SETTINGS, ServedModel, served_model

#: Values that the API server writes in another form, or leaves out.
SERVERS = {
    "replicas": 2,
    "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"memory": "1e9"}},
    "podTemplate": {
        "spec": {
            "hostIPC": False,
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [{"name": "server", "env": [{"name": "EMPTY", "value": ""}]}],
        }
    },
}


@pytest.fixture(scope="module")
def scenario(cluster: ClusterClient, rest: httpx.Client) -> Iterator[ServedModel]:
    """A model whose table is somebody else's at first."""
    with served_model(cluster, rest, "servers", make_model("urgency", serving=SERVERS)) as model:
        foreign = {
            "apiVersion": "multitask.dev/v1alpha1",
            "kind": "TaskRoute",
            "metadata": {"name": "desk"},
            "spec": {"model": "mine"},
        }
        objects.post(rest, "/apis/multitask.dev/v1alpha1/namespaces/servers/taskroutes", foreign)
        yield model


def test_a_table_of_somebody_else_is_named_and_not_touched(scenario: ServedModel) -> None:
    def is_refused() -> bool:
        scenario.look()
        return scenario.ready()[1] == "WriteRefused"

    until("the table is refused", is_refused, SECONDS)
    assert "TaskRoute desk" in scenario.ready()[2]
    assert objects.get(scenario.rest, scenario.route_path)["spec"]["model"] == "mine"
    scenario.rest.delete(scenario.route_path)
    scenario.until_ready()


def test_servers_stand_and_nothing_is_written_any_more(scenario: ServedModel) -> None:
    scenario.until_rolled_out()
    (name,) = {name for kind, name in scenario.versions() if kind == "Deployment"}
    assert {kind for kind, item in scenario.versions() if item == name} == {
        *("ConfigMap", "Service", "Deployment", "NetworkPolicy", "PodDisruptionBudget"),
    }
    before = scenario.versions()
    for _ in range(3):
        scenario.look()
    assert scenario.versions() == before


def acknowledge(scenario: ServedModel, name: str, generation: int = 1) -> None:
    """As a gateway does: by server-side apply, as a field manager of its own."""
    entry = {"name": name, "observedGeneration": generation, "time": "2026-01-01T00:00:00Z"}
    names = {"apiVersion": "multitask.dev/v1alpha1", "kind": "TaskRoute", "metadata": {"name": "desk"}}
    body = json.dumps(names | {"status": {"gateways": [entry]}})
    headers = {"Content-Type": "application/apply-patch+yaml"}
    path = f"{scenario.route_path}/status"
    scenario.rest.patch(
        path, content=body, headers=headers, params={"fieldManager": name, "force": "true"}
    ).raise_for_status()


@pytest.mark.parametrize("earlier", [1, 63])
def test_what_gateways_said_whose_pods_are_gone_is_removed_and_what_the_others_say_stays(
    scenario: ServedModel, earlier: int
) -> None:
    scenario.until_ready()

    def said() -> dict[str, int]:
        gateways = objects.get(scenario.rest, scenario.route_path)["status"].get("gateways", ())
        return {each["name"]: each["observedGeneration"] for each in gateways}

    for number in range(earlier):
        acknowledge(scenario, f"earlier-{number}")
    acknowledge(scenario, GATEWAY, said()[GATEWAY])  # the entry is the gateway's, as in a real cluster
    assert len(said()) == earlier + 1
    generation = objects.get(scenario.rest, scenario.route_path)["metadata"]["generation"]
    scenario.look()
    assert said() == {GATEWAY: generation}
    acknowledge(scenario, "new", generation)  # and the next one may write its own
    assert said() == {GATEWAY: generation, "new": generation}
    scenario.look()
    before = scenario.versions()
    scenario.look()
    assert scenario.versions() == before


def test_an_autoscaler_sees_and_sets_the_replicas(scenario: ServedModel) -> None:
    scenario.until_ready()
    path = f"/apis/multitask.dev/v1alpha1/namespaces/{scenario.namespace}/multitaskmodels/desk/scale"
    scale = objects.get(scenario.rest, path)
    assert scale["spec"]["replicas"] == scale["status"]["replicas"] == 2
    assert f"{KIND_LABEL}={SERVING}" in scale["status"]["selector"]
    scenario.cluster.kubectl("scale", "mtm", "desk", "--namespace", scenario.namespace, "--replicas", "3")

    def has_three() -> bool:
        scenario.look()
        serving = scenario.status()["serving"]
        return (serving["replicas"], serving["readyReplicas"]) == (3, 3)

    until("there are three servers", has_three, SECONDS)


@pytest.mark.parametrize(
    "kind", ["configmap", "service", "deployment", "networkpolicy", "poddisruptionbudget", "taskroute"]
)
def test_what_is_deleted_by_hand_is_made_again(scenario: ServedModel, kind: str) -> None:
    scenario.until_ready()
    before = set(scenario.versions())
    scenario.cluster.kubectl(
        "delete", kind, "--namespace", scenario.namespace, "--selector", f"{KIND_LABEL}={SERVING}", "--wait=false"
    )
    until(f"the {kind} is there again", lambda: scenario.look() or set(scenario.versions()) == before, SECONDS)
    scenario.until_ready()


def test_what_is_edited_by_hand_heals(scenario: ServedModel) -> None:
    scenario.until_ready()
    (deployment,) = scenario.get("Deployment")
    name = f"deployment/{deployment['metadata']['name']}"
    scenario.cluster.kubectl("set", "image", name, "server=example.test/mine:1", "--namespace", scenario.namespace)
    scenario.cluster.kubectl("scale", name, "--replicas", "9", "--namespace", scenario.namespace)

    def healed() -> bool:
        scenario.look()
        (now,) = scenario.get("Deployment")
        (server,) = now["spec"]["template"]["spec"]["containers"]
        return (server["image"], now["spec"]["replicas"]) == (SETTINGS.serving_image, deployment["spec"]["replicas"])

    until("it is as it was", healed, SECONDS)
