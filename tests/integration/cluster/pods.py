"""What a kubelet and the stage pods would do, without either: pods report results through their ConfigMap and succeed.

They write with the token of the model's own service account, so whatever they manage to write, its Role allows.
"""

from __future__ import annotations

import json

import httpx

from cluster import objects
from cluster.access import Access
from multitask_api.cluster import (
    CLEAN_UP_KEY,
    CLEANED_KEY,
    MODEL_LABEL,
    ORDERS_KEY,
    RESOLVE_KEY,
    RESOLVED_KEY,
    Cleaned,
    manifest_key,
    pack_manifest,
)
from multitask_operator.objects.protected import CONTAINER
from unit.operator.builders import graph_of, manifest, resolved

MERGE = {"Content-Type": "application/merge-patch+json"}


class Pods:
    """The pods of one model; ``ran`` lists the stages they ran, in order, ``cleaned`` what was removed behind them."""

    def __init__(self, access: Access, namespace: str, resource):
        self.access = access
        self.namespace = namespace
        self.resource = resource
        self.ran = []
        self.cleaned = []
        self._manifests = {}
        self._admin = access.rest()
        self._account = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._admin.close()
        self._leave()

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
        elif CLEAN_UP_KEY in data:
            self.cleaned.append(json.loads(data[CLEAN_UP_KEY]))
            found = {"data": {CLEANED_KEY: Cleaned(results=1, files=2, bytes=3, left=0).model_dump_json(by_alias=True)}}
            self._leave()  # the account may have been made anew since
        else:
            orders = json.loads(data[ORDERS_KEY])["orders"]
            found = {"binaryData": {manifest_key(each["digest"]): self._result(each) for each in orders}}
        answer = self._own().patch(path, json=found, headers=MERGE)
        assert answer.is_success, answer.text

    def _result(self, order) -> str:
        key = order["stage"], order["digest"]
        if key not in self._manifests:
            node = graph_of(self.resource, self._manifests, serve=False)[order["stage"]]
            assert node.digest == order["digest"]
            self._manifests[key] = manifest(node, self.resource)
        self.ran.append(order["stage"])
        return pack_manifest(self._manifests[key])

    def _leave(self) -> None:
        if self._account is not None:
            self._account.close()
            self._account = None

    def _own(self) -> httpx.Client:
        if self._account is None:
            account = f"{self.resource.metadata.name}-stages"
            self._account = self.access.rest(self.access.service_account(self.namespace, account))
        return self._account


def _going(item) -> bool:
    return "deletionTimestamp" in item["metadata"]
