"""Servers of a model on a real API server with its controllers; the test plays kubelets, stage pods and gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.processes import until
from multitask_api.cluster import KIND_LABEL, MODEL_LABEL
from multitask_api.serving_io.gateway_state import GatewayState, TableVersion
from multitask_api.serving_io.names import SERVING
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_operator.controller import Controller, NamespacedName, WriteRejected
from multitask_operator.reconciler import reconcile
from multitask_operator.settings import Settings
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import apply, make_model

SETTINGS = Settings(
    trainer_image="example.test/trainer:1",
    serving_image="example.test/triton:1",
    gateway_namespace="gateways",
    gateway_address="gateway.gateways:8081",
    grace_seconds=0,
)
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
KINDS = ("configmaps", "services", "deployments", "networkpolicies", "poddisruptionbudgets", "taskroutes")
NODE = "node-of-servers"
SECONDS = 120


@dataclass
class Scenario:
    """One model in a namespace of its own, and everything around it."""

    cluster: ClusterClient
    rest: httpx.Client
    namespace: str
    pods: FakePods
    runner: asyncio.Runner
    controller: Controller
    rejected: list[str] = field(default_factory=list)

    def look(self) -> None:
        """One reconcile, and one step of kubelets and gateways."""
        try:
            self.runner.run(self.controller.reconcile(NamespacedName(self.namespace, "desk")))
        except WriteRejected as error:
            self.rejected.append(str(error))
        self.pods.run_waiting()
        self._start_servers()
        self._acknowledge()

    def until_ready(self) -> None:
        def is_ready() -> bool:
            self.look()
            return self.ready()[0] == "True"

        try:
            until("the model is ready", is_ready, SECONDS)
        except TimeoutError as error:
            raise AssertionError(f"{self.ready()}; {self.status().get('serving')}; {self.rejected[-1:]}") from error

    def get(self, kind: str) -> list[Any]:
        selector = f"{MODEL_LABEL}=desk,{KIND_LABEL}={SERVING}"
        return list(self.cluster.get(kind, "--namespace", self.namespace, "--selector", selector)["items"])

    def versions(self) -> dict[tuple[str, str], str]:
        """(kind, name) → resource version of the objects that serve."""
        return {
            (item["kind"], item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for item in self.get(",".join(KINDS))
        }

    def status(self) -> Any:
        return self.cluster.get("multitaskmodels", "desk", "--namespace", self.namespace).get("status", {})

    def ready(self) -> tuple[str, str, str]:
        for item in self.status().get("conditions", ()):
            if item["type"] == "Ready":
                return item["status"], item["reason"], item["message"]
        return "", "", ""

    def _start_servers(self) -> None:
        for index, pod in enumerate(self.get("pods")):
            if pod["status"].get("phase") == "Pending" and "deletionTimestamp" not in pod["metadata"]:
                path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
                # The EndpointSlice controller leaves out a pod whose node it does not know.
                target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
                binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": target}
                ready = [{"type": name, "status": "True"} for name in ("Ready", "ContainersReady", "PodScheduled")]
                address = f"10.9.0.{index + 1}"
                status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": ready}
                is_bound = "nodeName" in pod["spec"]
                if is_bound or self._write_pod(self.rest.post(f"{path}/binding", json=binding)):
                    body = {"status": status}
                    self._write_pod(self.rest.patch(f"{path}/status", json=body, headers=objects.MERGE))

    @staticmethod
    def _write_pod(answer: httpx.Response) -> bool:
        """Whether the pod is still there: a controller may have deleted it since it was listed."""
        assert answer.is_success or answer.status_code in (404, 409), answer.text
        return answer.is_success

    def _acknowledge(self) -> None:
        for route in self.get("taskroutes"):
            generation = route["metadata"]["generation"]
            known = [each["observedGeneration"] for each in route.get("status", {}).get("gateways", ())]
            if known != [generation]:
                entry = {"name": "gateway-a", "observedGeneration": generation, "time": "2026-01-01T00:00:00Z"}
                objects.patch_status(self.rest, self.route_path, {"gateways": [entry]})

    @property
    def route_path(self) -> str:
        return f"/apis/multitask.dev/v1alpha1/namespaces/{self.namespace}/taskroutes/desk"


class Gateways:
    """One gateway that follows every table at once, and has no traffic."""

    def __init__(self, rest: httpx.Client, namespace: str) -> None:
        self._rest = rest
        self._namespace = namespace

    async def states(self) -> dict[str, GatewayState]:
        path = f"/apis/multitask.dev/v1alpha1/namespaces/{self._namespace}/taskroutes"
        tables = [
            TableVersion(
                namespace=self._namespace, name=item["metadata"]["name"], generation=item["metadata"]["generation"]
            )
            for item in objects.get(self._rest, path)["items"]
        ]
        return {"gateway-a": GatewayState(gateway="gateway-a", started=0.0, tables=tuple(tables))}


@pytest.fixture(scope="module")
def scenario(cluster: ClusterClient, rest: httpx.Client) -> Iterator[Scenario]:
    """A model that is served."""
    namespace = "servers"
    objects.namespace(rest, namespace)
    objects.node(rest, NODE)
    objects.claim(rest, namespace, "models")
    resource = make_model("urgency", serving=SERVERS)
    foreign = {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "TaskRoute",
        "metadata": {"name": "desk"},
        "spec": {"model": "mine"},
    }
    objects.post(rest, f"/apis/multitask.dev/v1alpha1/namespaces/{namespace}/taskroutes", foreign)
    apply(cluster, namespace, resource)
    with asyncio.Runner() as runner, FakePods(cluster, namespace, resource) as pods:

        async def connected() -> Client:
            return Client(await connect(cluster.admin))

        client = runner.run(connected())
        gateways: Any = Gateways(rest, namespace)
        controller = Controller(client, SETTINGS, reconcile, gateways=gateways)
        yield Scenario(cluster, rest, namespace, pods, runner, controller)
        runner.run(client.close())
    rest.delete(f"/api/v1/namespaces/{namespace}")
    rest.delete(f"/api/v1/nodes/{NODE}")


def test_a_table_of_somebody_else_is_named_and_not_touched(scenario: Scenario) -> None:
    def is_refused() -> bool:
        scenario.look()
        return scenario.ready()[1] == "WriteRefused"

    until("the table is refused", is_refused, SECONDS)
    assert "TaskRoute desk" in scenario.ready()[2]
    assert objects.get(scenario.rest, scenario.route_path)["spec"]["model"] == "mine"
    scenario.rest.delete(scenario.route_path)
    scenario.until_ready()


def test_servers_stand_and_nothing_is_written_any_more(scenario: Scenario) -> None:
    scenario.until_ready()
    until(
        "the rollout is over", lambda: scenario.look() or scenario.status()["serving"]["phase"] == "RolledOut", SECONDS
    )
    (name,) = {name for kind, name in scenario.versions() if kind == "Deployment"}
    assert {kind for kind, item in scenario.versions() if item == name} == {
        *("ConfigMap", "Service", "Deployment", "NetworkPolicy", "PodDisruptionBudget"),
    }
    before = scenario.versions()
    for _ in range(3):
        scenario.look()
    assert scenario.versions() == before


def test_an_autoscaler_sees_and_sets_the_replicas(scenario: Scenario) -> None:
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
def test_what_is_deleted_by_hand_is_made_again(scenario: Scenario, kind: str) -> None:
    scenario.until_ready()
    before = set(scenario.versions())
    scenario.cluster.kubectl(
        "delete", kind, "--namespace", scenario.namespace, "--selector", f"{KIND_LABEL}={SERVING}", "--wait=false"
    )
    until(f"the {kind} is there again", lambda: scenario.look() or set(scenario.versions()) == before, SECONDS)
    scenario.until_ready()


def test_what_is_edited_by_hand_heals(scenario: Scenario) -> None:
    scenario.until_ready()
    (deployment,) = scenario.get("deployments")
    name = f"deployment/{deployment['metadata']['name']}"
    scenario.cluster.kubectl("set", "image", name, "server=example.test/mine:1", "--namespace", scenario.namespace)
    scenario.cluster.kubectl("scale", name, "--replicas", "9", "--namespace", scenario.namespace)

    def healed() -> bool:
        scenario.look()
        (now,) = scenario.get("deployments")
        (server,) = now["spec"]["template"]["spec"]["containers"]
        return (server["image"], now["spec"]["replicas"]) == (SETTINGS.serving_image, deployment["spec"]["replicas"])

    until("it is as it was", healed, SECONDS)
