"""Stands in for kubelet and stage pods: each pod writes its result to its ConfigMap and succeeds.

It writes with the token of the model's own service account, so the Role has to allow each write.
"""

from __future__ import annotations

import json

import httpx

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from multitask_api.cluster import (
    CLEAN_UP_KEY,
    CLEAN_UP_RESULT_KEY,
    GC_KEY,
    GC_RESULT_KEY,
    KIND_LABEL,
    MODEL_LABEL,
    ORDERS_KEY,
    RESOLVE_KEY,
    RESOLVED_KEY,
    CleanUpResult,
    GarbageOrder,
    GarbageResult,
    UnusedResult,
)
from multitask_api.serving_io.names import SERVING
from multitask_api.serving_io.verify import VERIFIED_KEY, VERIFY_KEY, VerifyOrder
from multitask_api.stage_io.packing import manifest_key, pack_manifest
from multitask_operator.objects.names import STAGES, access_name
from multitask_operator.objects.user_pod_template import CONTAINER
from support.graph_builders import graph_of, manifest, resolved
from support.simulated_servers import verified


class FakePods:
    """The pods of one model; ``ran`` lists the stages they ran, in order, ``cleaned`` what was removed behind them,
    ``collected`` the orders to remove what is not used.

    ``listed``: how all pods of the namespace are looked up, by a request when nothing is given. ``problems``: what a
    look at the data finds wrong.
    """

    def __init__(self, client: ClusterClient, namespace: str, resource, listed=None):
        self.client = client
        self.namespace = namespace
        self.resource = resource
        self.ran = []
        self.cleaned = []
        self.collected = []
        self.problems = ()
        self._listed = listed or self._list
        self._manifests = {}
        self._admin = client.rest()
        self._accounts = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._admin.close()
        self.renew_token()

    def run_waiting(self, leave=()) -> int:
        """Every pod that waits for its kubelet, but for those of the kinds in ``leave``, runs to its end; how many."""
        waiting = [pod for pod in self.waiting() if pod["metadata"]["labels"][KIND_LABEL] not in leave]
        for pod in waiting:
            if self._run(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]):
                self.finish_pod(pod, "Succeeded", exitCode=0, reason="Completed")
        return len(waiting)

    def waiting(self):
        """The pods that wait for their kubelet."""
        name = self.resource.metadata.name
        pods = [pod for pod in self._listed() if pod["metadata"].get("labels", {}).get(MODEL_LABEL) == name]
        pods = [pod for pod in pods if pod["metadata"]["labels"][KIND_LABEL] != SERVING]
        return [pod for pod in pods if pod["status"].get("phase") == "Pending" and not _is_being_deleted(pod)]

    def finish_pod(self, pod, phase, *, conditions=(), **terminated) -> None:
        """The pod's container has ended so."""
        ended = {"name": CONTAINER, "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        ended["state"] = {"terminated": terminated}
        status = {"phase": phase, "containerStatuses": [ended]}
        if conditions:
            status["conditions"] = list(conditions)
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/status"
        answer = self._admin.patch(path, json={"status": status}, headers=objects.MERGE)
        assert answer.is_success or answer.status_code == 404, answer.text  # stopped meanwhile

    def begin_eviction(self, pod) -> None:
        """The pod runs on a node, which is drained: it has two minutes to end."""
        path = self._path(pod)
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        metadata = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}, "target": target}
        objects.post(self._admin, f"{path}/binding", binding)
        running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        self._admin.patch(f"{path}/status", json={"status": running}, headers=objects.MERGE).raise_for_status()
        grace = {"deleteOptions": {"gracePeriodSeconds": 120}}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, **grace}
        objects.post(self._admin, f"{path}/eviction", eviction)

    def end_eviction(self, pod) -> None:
        """Its container has ended, and the kubelet takes it away."""
        conditions = objects.get(self._admin, self._path(pod))["status"]["conditions"]
        kept = [item for item in conditions if item["type"] == "DisruptionTarget"]
        self.finish_pod(pod, "Failed", conditions=kept, exitCode=75)
        now = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        self._admin.request("DELETE", self._path(pod), json=now)

    def _path(self, pod) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"

    def patch_configmap(self, unit: str, change) -> None:
        """Merge ``change`` into the unit's ConfigMap with the rights of its pods."""
        answer = self._pod_client(unit).patch(self._configmap(unit), json=change, headers=objects.MERGE)
        assert answer.is_success, answer.text

    def renew_token(self) -> None:
        """Pods that begin from now on get a new token."""
        for account in self._accounts.values():
            account.close()
        self._accounts.clear()

    def _list(self):
        return objects.get(self._admin, f"/api/v1/namespaces/{self.namespace}/pods")["items"]

    def _configmap(self, unit: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{unit}"

    def _run(self, unit: str) -> bool:
        """False: nobody waits for it any more."""
        answer = self._admin.get(self._configmap(unit))
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        data = answer.raise_for_status().json()["data"]
        if RESOLVE_KEY in data:
            seen = resolved(self.resource).model_copy(update={"problems": tuple(self.problems)})
            change = {"data": {RESOLVED_KEY: seen.model_dump_json(by_alias=True)}}
        elif CLEAN_UP_KEY in data:
            self.cleaned.append(json.loads(data[CLEAN_UP_KEY]))
            change = {
                "data": {
                    CLEAN_UP_RESULT_KEY: CleanUpResult(results=1, files=2, bytes=3, left=0).model_dump_json(
                        by_alias=True
                    )
                }
            }
            self.renew_token()  # the account may have been made anew since
        elif GC_KEY in data:
            order = GarbageOrder.model_validate_json(data[GC_KEY])
            self.collected.append(order)
            unused = (UnusedResult(name="export/0000", bytes=2_000_000),)
            found = GarbageResult(dry_run=order.dry_run, results=unused, count=1, files=3, bytes=2_000_000, left=0)
            change = {"data": {GC_RESULT_KEY: found.model_dump_json(by_alias=True)}}
        elif VERIFY_KEY in data:
            change = {"data": {VERIFIED_KEY: verified(VerifyOrder.model_validate_json(data[VERIFY_KEY]))}}
        else:
            orders = json.loads(data[ORDERS_KEY])["orders"]
            graph = graph_of(self.resource, self._manifests, serve=False)
            change = {"binaryData": {manifest_key(each["digest"]): self._result(graph, each) for each in orders}}
        self.patch_configmap(unit, change)
        return True

    def _result(self, graph, order) -> str:
        key = order["stage"], order["digest"]
        if key not in self._manifests:
            node = graph[order["stage"]]
            assert node.digest == order["digest"]
            self._manifests[key] = manifest(node, self.resource)
        self.ran.append(order["stage"])
        return pack_manifest(self._manifests[key])

    def _pod_client(self, unit: str) -> httpx.Client:
        """As the account of the Job's pods; where there is none any more, as that of the stages."""
        pods = (pod for pod in self._list() if pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") == unit)
        pod = next(pods, None)
        name = pod["spec"]["serviceAccountName"] if pod else access_name(self.resource.metadata.name, STAGES)
        if name not in self._accounts:
            self._accounts[name] = self.client.rest(self.client.service_account(self.namespace, name))
        return self._accounts[name]


def _is_being_deleted(item) -> bool:
    return "deletionTimestamp" in item["metadata"]
