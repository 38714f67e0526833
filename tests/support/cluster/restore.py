"""Objects as they were, put where the API server keeps them: as after the restoration of a back-up of etcd.

The API server gives every object that it creates a new uid and no status. Names of Jobs follow from the model's uid,
and children are owned by it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable

import httpx

from devcluster.cluster_client import ClusterClient, Object

#: Of etcd's client address, in the control plane's folder.
SOCKET = "client:0"
PREFIXES = {
    "MultiTaskModel": "multitask.dev/multitaskmodels",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Service": "services/specs",
    "Job": "jobs",
    "Pod": "pods",
}


def restore(cluster: ClusterClient, objects: Iterable[Object]) -> None:
    """Write ``objects`` with their uids, times and status; their namespace is there already."""
    folder = os.open(cluster.folder, os.O_DIRECTORY)  # a socket's path has 107 characters at most
    try:
        transport = httpx.HTTPTransport(uds=f"/proc/self/fd/{folder}/{SOCKET}")
        with httpx.Client(transport=transport, base_url="http://etcd", trust_env=False) as etcd:
            for item in objects:
                _put(etcd, item)
    finally:
        os.close(folder)


def _put(etcd: httpx.Client, item: Object) -> None:
    metadata = item["metadata"]
    key = f"/registry/{PREFIXES[item['kind']]}/{metadata['namespace']}/{metadata['name']}"
    pair = {"key": _encoded(key), "value": _encoded(json.dumps(item))}
    answer = etcd.post("/v3/kv/put", json=pair)
    assert answer.is_success, f"{key}: {answer.text}"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
