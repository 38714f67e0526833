"""What a kubelet and the stage pods would do, without either: pods report results through their ConfigMap and succeed.

They write with the token of the model's own service account, so whatever they manage to write, its Role allows.
"""

from __future__ import annotations

import json

import httpx

from cluster import objects
from cluster.access import Access
from multitask_api.cluster import (
    MODEL_LABEL,
    ORDERS_KEY,
    RESOLVE_KEY,
    RESOLVED_KEY,
    manifest_key,
    pack_manifest,
)
from multitask_operator.objects.protected import CONTAINER
from unit.operator.builders import graph_of, manifest, resolved

MERGE = {"Content-Type": "application/merge-patch+json"}


class Pods:
    """The pods of one model; ``ran`` lists the stages they ran, in order."""

    def __init__(self, access: Access, namespace: str, resource):
        self.access = access
        self.namespace = namespace
        self.resource = resource
        self.ran = []
        self._manifests = {}
        self._admin = access.rest()
        self._account = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in (self._admin, self._account):
            if client is not None:
                client.close()

    def work(self) -> int:
        """Every pod that waits for its kubelet runs to its end; how many there were."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        found = objects.get(self._admin, f"{path}?labelSelector={MODEL_LABEL}={self.resource.metadata.name}")["items"]
        waiting = [pod for pod in found if pod["status"].get("phase") == "Pending" and not _going(pod)]
        for pod in waiting:
            self._run(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"])
            ended = {"name": CONTAINER, "image": "i", "imageID": "", "ready": False, "restartCount": 0}
            ended["state"] = {"terminated": {"exitCode": 0, "reason": "Completed"}}
            status = {"phase": "Succeeded", "containerStatuses": [ended]}
            answer = self._admin.patch(
                f"{path}/{pod['metadata']['name']}/status", json={"status": status}, headers=MERGE
            )
            assert answer.is_success or answer.status_code == 404, answer.text  # stopped meanwhile
        return len(waiting)

    def _run(self, unit: str) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/{unit}"
        data = objects.get(self._admin, path)["data"]
        if RESOLVE_KEY in data:
            found = {"data": {RESOLVED_KEY: resolved(self.resource).model_dump_json(by_alias=True)}}
        else:
            orders = json.loads(data[ORDERS_KEY])["orders"]
            graph = graph_of(self.resource, self._manifests, serve=False)
            found = {"binaryData": {manifest_key(each["digest"]): self._result(graph, each) for each in orders}}
        answer = self._own().patch(path, json=found, headers=MERGE)
        assert answer.is_success, answer.text

    def _result(self, graph, order) -> str:
        key = order["stage"], order["digest"]
        if key not in self._manifests:
            node = graph[order["stage"]]
            assert node.digest == order["digest"]
            self._manifests[key] = manifest(node, self.resource)
        self.ran.append(order["stage"])
        return pack_manifest(self._manifests[key])

    def _own(self) -> httpx.Client:
        if self._account is None:
            account = f"{self.resource.metadata.name}-stages"
            self._account = self.access.rest(self.access.service_account(self.namespace, account))
        return self._account


def _going(item) -> bool:
    return "deletionTimestamp" in item["metadata"]
