"""Creates what a control plane without nodes lacks: nodes with GPUs, bound volumes, status that kubelets report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from devcluster.cluster_client import Object
from devcluster.processes import until

MERGE = {"Content-Type": "application/merge-patch+json"}


def namespace(rest: httpx.Client, name: str) -> None:
    """Create a namespace, and wait for what every pod in it needs, its default service account."""
    post(rest, "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    until(f"namespace {name} has its service account", lambda: rest.get(account).status_code == 200, seconds=30)


def node(
    rest: httpx.Client,
    name: str,
    *,
    cpu: int = 8,
    memory: str = "32Gi",
    resources: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
    ready: bool = True,
) -> None:
    """Create a node with this capacity; ``resources`` as in ``{"nvidia.com/gpu": 8}``."""
    post(
        rest,
        "/api/v1/nodes",
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": dict(labels or {})}},
    )
    capacity = {"cpu": str(cpu), "memory": memory, "pods": "110"} | {
        key: str(count) for key, count in (resources or {}).items()
    }
    condition = {"type": "Ready", "status": "True" if ready else "False", "reason": "KubeletReady", "message": ""}
    status = {"capacity": capacity, "allocatable": capacity, "conditions": [condition]}
    patch_status(rest, f"/api/v1/nodes/{name}", status)


def claim(
    rest: httpx.Client,
    namespace: str,
    name: str,
    *,
    modes: Sequence[str] = ("ReadWriteMany",),
    size: str = "1Gi",
    bound: bool = True,
) -> None:
    """Create a PersistentVolumeClaim; with ``bound`` also its volume, and wait until it is bound."""
    if bound:
        volume = {
            "capacity": {"storage": size},
            "accessModes": list(modes),
            "hostPath": {"path": f"/nowhere/{name}"},
            "claimRef": {"namespace": namespace, "name": name},
            "storageClassName": "",
        }
        meta = {"name": f"{namespace}-{name}"}
        post(
            rest,
            "/api/v1/persistentvolumes",
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": volume},
        )
    spec = {
        "accessModes": list(modes),
        "resources": {"requests": {"storage": size}},
        "storageClassName": "" if bound else "no-such-class",
    }
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    post(rest, path, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
    if bound:
        until(f"claim {name} is bound", lambda: get(rest, f"{path}/{name}")["status"].get("phase") == "Bound", 60)


def get(rest: httpx.Client, path: str) -> Object:
    """An object or a list. AssertionError, with the server's message, if there is none."""
    return _data(rest.get(path))


def post(rest: httpx.Client, path: str, body: Object) -> Object:
    """Create an object. AssertionError, with the server's message, if it is refused."""
    return _data(rest.post(path, json=body))


def patch_status(rest: httpx.Client, path: str, status: Mapping[str, Any]) -> Object:
    """Merge ``status`` into an object's, as a kubelet or a controller does."""
    return _data(rest.patch(f"{path}/status", json={"status": status}, headers=MERGE))


def _data(answer: httpx.Response) -> Object:
    assert answer.is_success, f"{answer.request.method} {answer.request.url.path}: {answer.text}"
    body: Object = answer.json()
    return body
