"""A served model on a real API server with its controllers: plays kubelets, stage pods and gateways, and runs operators
that may be killed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.processes import until
from multitask_api.cluster import KIND_LABEL, MODEL_LABEL
from multitask_api.serving_io.gateway_state import LATENCY_BUCKETS_S, GatewayState, RevisionCounts, TableVersion
from multitask_api.serving_io.names import SERVING
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_operator.controller import Controller, NamespacedName, WriteRejected
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.settings import Settings
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import apply

SETTINGS = Settings(
    trainer_image="example.test/trainer:1",
    serving_image="example.test/triton:1",
    gateway_namespace="gateways",
    gateway_address="gateway.gateways:8081",
    grace_seconds=0,
)
SECONDS = 120
GATEWAY = "gateway-a"
REQUESTS = 60
"""Requests for each task at a time."""
OBJECTS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "TaskRoute": "/apis/multitask.dev/v1alpha1/namespaces/{}/taskroutes",
}
"""What the operator makes for servers."""
PATHS = OBJECTS | {
    "Pod": "/api/v1/namespaces/{}/pods",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "MultiTaskModel": "/apis/multitask.dev/v1alpha1/namespaces/{}/multitaskmodels",
}


class KilledError(Exception):
    """The operator is gone: of what it decided nothing more is done, and all it knew is lost."""


class ServedModel:
    """One model, ``desk``, in a namespace of its own, and everything around it.

    ``hurry``: seconds that the operators' clock goes forward at each look. ``is_asked``: whether the gateway sends
    requests, each time after one of the operators has written something. ``room``: servers that fit; None: any number.
    """

    def __init__(self, cluster: ClusterClient, rest: httpx.Client, pods: FakePods, runner: asyncio.Runner) -> None:
        self.cluster = cluster
        self.rest = rest
        self.namespace = pods.namespace
        self.pods = pods
        self.hurry = 0.0
        self.is_asked = False
        self.room: int | None = None
        self.writes = 0
        self.kills = 0
        self.rejected: list[str] = []
        self.unanswered: list[str] = []
        self._runner = runner
        self._ahead = 0.0
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._clients: list[Client] = []
        self._operators: list[Controller] = []
        self._lifetime: int | None = None

    def start_operators(self, number: int = 1, *, lifetime: int | None = None) -> None:
        """New ones that know nothing, instead of those that were there; each is killed after so many writes, and
        another one starts."""
        self.stop_operators()
        self._lifetime = lifetime
        for _ in range(number):
            self._clients.append(self._runner.run(self._client(lifetime)))
            gateways: Any = self
            self._operators.append(
                Controller(self._clients[-1], SETTINGS, reconcile, gateways=gateways, clock=self.clock)
            )

    def stop_operators(self) -> None:
        for client in self._clients:
            self._runner.run(client.close())
        self._clients, self._operators = [], []

    async def _client(self, lifetime: int | None) -> Client:
        left = lifetime

        def wrote() -> None:
            nonlocal left
            self.writes += 1
            self._ask()
            if left is not None:
                left -= 1
                if left == 0:
                    raise KilledError

        return Client(await connect(self.cluster.admin), after_write=wrote)

    def clock(self) -> float:
        """The operators' time, in Unix seconds."""
        return time.time() + self._ahead

    def look(self) -> None:
        """One reconcile of every operator at the same time, and one step of kubelets and gateways."""
        self._ahead += self.hurry
        for error in self._runner.run(self._reconcile()):
            if isinstance(error, KilledError):
                self.kills += 1
                self.start_operators(len(self._operators), lifetime=self._lifetime)
            elif isinstance(error, WriteRejected):
                self.rejected.append(str(error))
            elif isinstance(error, BaseException):
                raise error
        self.pods.run_waiting()
        self._run_kubelets()
        self._acknowledge()
        self._ask()

    async def _reconcile(self) -> list[float | BaseException | None]:
        key = NamespacedName(self.namespace, "desk")
        return await asyncio.gather(*(each.reconcile(key) for each in self._operators), return_exceptions=True)

    def until_ready(self) -> None:
        def is_ready() -> bool:
            self.look()
            return self.ready()[0] == "True"

        try:
            until("the model is ready", is_ready, SECONDS)
        except TimeoutError as error:
            raise AssertionError(f"{self.ready()}; {self.status().get('serving')}; {self.rejected[-1:]}") from error

    def until_rolled_out(self, than: str = "") -> str:
        """Until another revision ``than`` that answers everything; its name."""

        def is_over() -> bool:
            self.look()
            serving = self.status().get("serving", {})
            return serving.get("phase") == "RolledOut" and serving.get("revision") not in (None, than)

        try:
            until("the rollout is over", is_over, SECONDS)
        except TimeoutError as error:
            raise AssertionError(f"{self.ready()}; {self.status().get('serving')}; {self.rejected[-1:]}") from error
        return str(self.status()["serving"]["revision"])

    # -- what there is ---------------------------------------------------------------------------------------------

    def find(self, kind: str, labels: str = "") -> list[Any]:
        """Objects of the namespace."""
        answer = self.rest.get(PATHS[kind].format(self.namespace), params={"labelSelector": labels})
        return list(answer.raise_for_status().json()["items"])

    def get(self, kind: str) -> list[Any]:
        """Objects that serve the model."""
        return self.find(kind, f"{MODEL_LABEL}=desk,{KIND_LABEL}={SERVING}")

    def versions(self) -> dict[tuple[str, str], str]:
        """(kind, name) → resource version of the objects that serve."""
        found = ((kind, item["metadata"]) for kind in OBJECTS for item in self.get(kind))
        return {(kind, metadata["name"]): metadata["resourceVersion"] for kind, metadata in found}

    def all_versions(self) -> dict[tuple[str, str], str]:
        """Of everything in the namespace."""
        found = ((kind, item["metadata"]) for kind in PATHS for item in self.find(kind))
        return {(kind, metadata["name"]): metadata["resourceVersion"] for kind, metadata in found}

    def status(self) -> Any:
        return objects.get(self.rest, f"{PATHS['MultiTaskModel'].format(self.namespace)}/desk").get("status", {})

    def ready(self) -> tuple[str, str, str]:
        for item in self.status().get("conditions", ()):
            if item["type"] == "Ready":
                return item["status"], item["reason"], item["message"]
        return "", "", ""

    @property
    def route_path(self) -> str:
        return f"{PATHS['TaskRoute'].format(self.namespace)}/desk"

    # -- kubelets --------------------------------------------------------------------------------------------------

    def _run_kubelets(self) -> None:
        pods = self.get("Pod")
        bound = sum("nodeName" in pod["spec"] for pod in pods)
        for index, pod in enumerate(pods):
            path = f"{PATHS['Pod'].format(self.namespace)}/{pod['metadata']['name']}"
            if "deletionTimestamp" in pod["metadata"]:
                now = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
                self._write(self.rest.request("DELETE", path, json=now))
            elif pod["status"].get("phase") == "Pending":
                # The EndpointSlice controller leaves out a pod whose node it does not know.
                target = {"apiVersion": "v1", "kind": "Node", "name": node_name(self.namespace)}
                binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": target}
                ready = [{"type": name, "status": "True"} for name in ("Ready", "ContainersReady", "PodScheduled")]
                address = f"10.9.0.{index + 1}"
                status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": ready}
                is_bound = "nodeName" in pod["spec"]
                if not is_bound and self.room is not None and bound >= self.room:
                    self._write_unschedulable(pod, path)
                    continue
                bound += not is_bound
                if is_bound or self._write(self.rest.post(f"{path}/binding", json=binding)):
                    body = {"status": status}
                    self._write(self.rest.patch(f"{path}/status", json=body, headers=objects.MERGE))

    def _write_unschedulable(self, pod: Any, path: str) -> None:
        """What the scheduler says of a pod once."""
        if not pod["status"].get("conditions"):
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                "lastTransitionTime": format_time(self.clock()),
            }
            body = {"status": {"conditions": [condition]}}
            self._write(self.rest.patch(f"{path}/status", json=body, headers=objects.MERGE))

    @staticmethod
    def _write(answer: httpx.Response) -> bool:
        """Whether the pod is still there: a controller may have deleted it since it was listed."""
        assert answer.is_success or answer.status_code in (404, 409), answer.text
        return answer.is_success

    # -- one gateway, which follows every table at once --------------------------------------------------------------

    async def existing_pods(self, acknowledged: Collection[str]) -> frozenset[str]:
        """See `multitask_operator.cluster.gateways.Gateways`."""
        return frozenset({GATEWAY})

    async def states(self) -> dict[str, GatewayState]:
        """What the operator is told: see `multitask_operator.cluster.gateways.Gateways`."""
        tables = tuple(
            TableVersion(
                namespace=self.namespace, name=item["metadata"]["name"], generation=item["metadata"]["generation"]
            )
            for item in self.find("TaskRoute")
        )
        counts = tuple(self._row(*key, sent) for key, sent in self._counts.items())
        return {GATEWAY: GatewayState(gateway=GATEWAY, started=0.0, tables=tables, counts=counts)}

    def _row(self, task: str, revision: str, window: str, sent: int) -> RevisionCounts:
        latencies = (sent, *[0] * len(LATENCY_BUCKETS_S))
        name = f"{self.namespace}/desk/{task}"
        return RevisionCounts(task=name, revision=revision, window=window, requests=sent, latencies=latencies)

    def _acknowledge(self) -> None:
        for route in self.get("TaskRoute"):
            generation = route["metadata"]["generation"]
            known = {each["name"]: each for each in route.get("status", {}).get("gateways", ())}
            if known.get(GATEWAY, {}).get("observedGeneration") != generation:
                known[GATEWAY] = {"name": GATEWAY, "observedGeneration": generation, "time": format_time(self.clock())}
                objects.patch_status(self.rest, self.route_path, {"gateways": list(known.values())})

    def _ask(self) -> None:
        """Requests of every task by the table as it is."""
        if not self.is_asked:
            return
        ready = self._ready_services()
        for route in self.get("TaskRoute"):
            for entry in route["spec"]["tasks"]:
                used = [each for each in entry["backends"] if each["weight"]]
                if not any(each["service"] in ready for each in used):
                    self.unanswered.append(f"{entry['name']}: {used}")
                for each in used:
                    self._counts[entry["name"], each["revision"], entry.get("window") or ""] += REQUESTS

    def _ready_services(self) -> set[str]:
        return {
            item["metadata"]["labels"]["kubernetes.io/service-name"]
            for item in self.find("EndpointSlice")
            for endpoint in item.get("endpoints") or ()
            if endpoint["conditions"].get("ready")
        }


def node_name(namespace: str) -> str:
    """The node of the servers in that namespace."""
    return f"node-of-{namespace}"


@contextmanager
def served_model(cluster: ClusterClient, rest: httpx.Client, namespace: str, resource: Any) -> Iterator[ServedModel]:
    """``resource`` in a new namespace, with one operator that has not looked at it yet."""
    objects.namespace(rest, namespace)
    objects.node(rest, node_name(namespace))
    objects.claim(rest, namespace, "models")
    apply(cluster, namespace, resource)
    with asyncio.Runner() as runner, FakePods(cluster, namespace, resource) as pods:
        model = ServedModel(cluster, rest, pods, runner)
        model.start_operators()
        try:
            yield model
        finally:
            model.stop_operators()
            rest.delete(f"/api/v1/namespaces/{namespace}")
            rest.delete(f"/api/v1/nodes/{node_name(namespace)}")
