"""``python -m multitask_serving.gateway`` as a process, and the TaskRoutes and EndpointSlices that it follows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from devcluster import objects
from devcluster.cluster_client import Object
from devcluster.processes import until
from multitask_api.serving_io.gateway_state import GatewayState
from support.cluster.operator_process import SECONDS
from support.fake_triton import FakeTriton

ROUTES = "/apis/multitask.dev/v1alpha1/namespaces/{}/taskroutes"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"


def _host() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


HOST = _host()
"""This machine's address: the API server takes no loopback addresses for endpoints."""


async def soon(what: str, probe: Callable[[], bool], seconds: float = 30.0) -> float:
    """Wait without holding up the servers of this process; gives the seconds that it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(probe):
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


class GatewayProcess:
    """A running gateway."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def log_text(self) -> str:
        return self.log.read_text()

    def ports(self) -> tuple[int, int]:
        """Of gRPC, and of ``/state``."""
        match = re.search(r"listening on port (\d+), state on port (\d+)", self.log_text())
        if match is None:
            raise httpx.ConnectError("it does not listen yet")
        return int(match[1]), int(match[2])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports()[0]}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports()[1]}/{path}", timeout=30, trust_env=False)

    def state(self) -> GatewayState:
        return GatewayState.model_validate_json(self.get("state").text)

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample of a metric."""
        families = text_string_to_metric_families(self.get("metrics").text)
        found = (each for family in families for each in family.samples)
        return [(each.labels, each.value) for each in found if each.name == f"multitask_gateway_{name}"]

    def is_ready(self) -> bool:
        try:
            return self.get("readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def follows(self, namespace: str, name: str = "desk") -> int:
        """The generation of a TaskRoute that it follows; 0: none."""
        tables = {(each.namespace, each.name): each.generation for each in self.state().tables}
        return tables.get((namespace, name), 0)

    def until(self, what: str, probe: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Wait for ``probe``; the log is in the error."""
        try:
            until(what, probe, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log_text()}") from error

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def run_gateway(
    kubeconfig: Path, folder: Path, *namespaces: str, name: str = "gateway-a", wait: bool = True, **variables: str
) -> Iterator[GatewayProcess]:
    """A gateway, by default once it is ready."""
    command = [sys.executable, "-m", "multitask_serving.gateway", "--kubeconfig", str(kubeconfig)]
    environment = os.environ | {
        "MULTITASK_GATEWAY_LISTEN": "127.0.0.1:0",
        "MULTITASK_GATEWAY_STATE_LISTEN": "127.0.0.1:0",
        "MULTITASK_NAMESPACES": ",".join(namespaces),
        "MULTITASK_DRAIN_DELAY_SECONDS": "0",
        "MULTITASK_MAX_CONNECTION_AGE_SECONDS": "0",
        "POD_NAME": name,
    }
    log = folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment | variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        running = GatewayProcess(process, log)
        try:
            if wait:
                running.until("the gateway is ready", running.is_ready)
            yield running
        finally:
            process.kill()
            process.wait()


def task(name: str, weights: Mapping[str, int], **fields: Any) -> Object:
    """A classification task; revision → weight."""
    backends = [
        {"service": f"desk-serve-{revision}", "port": 8001, "weight": weight, "revision": revision}
        for revision, weight in weights.items()
    ]
    labels = {"type": "Classification", "fields": ["text"], "labels": ["low", "high"]}
    return {"name": name, **labels, "backends": backends, **fields}


def route(namespace: str, *tasks: Object, name: str = "desk", model: str = "desk", **spec: Any) -> Object:
    """A TaskRoute."""
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "TaskRoute",
        "metadata": {"name": name},
        "spec": {"namespace": namespace, "model": model, "tasks": list(tasks), **spec},
    }


def put_route(rest: httpx.Client, namespace: str, body: Object) -> int:
    """Create or replace a TaskRoute; gives its generation."""
    path = f"{ROUTES.format(namespace)}/{body['metadata']['name']}"
    known = rest.get(path)
    if known.status_code == 404:
        answer = rest.post(ROUTES.format(namespace), json=body)
    else:
        version = known.json()["metadata"]["resourceVersion"]
        answer = rest.put(path, json=body | {"metadata": body["metadata"] | {"resourceVersion": version}})
    answer.raise_for_status()
    return int(answer.json()["metadata"]["generation"])


def delete_route(rest: httpx.Client, namespace: str, name: str = "desk") -> None:
    rest.delete(f"{ROUTES.format(namespace)}/{name}").raise_for_status()


def acknowledged(rest: httpx.Client, namespace: str, name: str = "desk") -> dict[str, int]:
    """Gateway → the generation that it says it follows."""
    status = objects.get(rest, f"{ROUTES.format(namespace)}/{name}").get("status", {})
    return {each["name"]: each["observedGeneration"] for each in status.get("gateways", ())}


def put_pods(
    rest: httpx.Client, namespace: str, revision: str, servers: Sequence[FakeTriton], **conditions: bool
) -> None:
    """The pods of a revision, as EndpointSlices: one for each, because all are on one address of this machine."""
    labels = {"kubernetes.io/service-name": f"desk-serve-{revision}", "multitask.dev/kind": "serving"}
    wanted = {f"{revision}-{server.port}": server for server in servers}
    selector = f"labelSelector=kubernetes.io/service-name=desk-serve-{revision}"
    listed = objects.get(rest, f"{SLICES.format(namespace)}?{selector}")
    known = {item["metadata"]["name"] for item in listed["items"]}
    for name, server in wanted.items():
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": server.port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [server.host], "conditions": {"ready": True, **conditions}}],
        }
        if name in known:
            rest.put(f"{SLICES.format(namespace)}/{name}", json=body).raise_for_status()
        else:
            rest.post(SLICES.format(namespace), json=body).raise_for_status()
    for name in known - wanted.keys():
        rest.delete(f"{SLICES.format(namespace)}/{name}").raise_for_status()
