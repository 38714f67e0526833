"""The gateway's program with the rights that the chart gives it, and with fewer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from devcluster import chart, objects
from devcluster.cluster_client import ClusterClient, Object
from multitask_client import AsyncTaskClient, PermissionDenied, Unauthenticated
from multitask_serving.gateway.access.callers import hash_key
from support.cluster.gateway_process import HOST, acknowledged, put_pods, put_route, route, run_gateway, soon, task
from support.fake_triton import FakeTriton, running

pytestmark = pytest.mark.integration
KEY = "k" * 40
MISSING = "the gateway cannot list taskroutes.multitask.dev in namespace"
RBAC = "rbac.authorization.k8s.io/v1"


@pytest.fixture
async def pod() -> AsyncIterator[FakeTriton]:
    async with running(FakeTriton(HOST)) as (server,):
        yield server


@pytest.fixture
def account(cluster: ClusterClient, rest: httpx.Client, namespace: str) -> Iterator[Path]:
    """The kubeconfig of the gateways that the chart installs for ``namespace``."""
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    own, release = f"own-{namespace}"[:60], f"g-{os.urandom(3).hex()}"
    objects.namespace(rest, own)
    options = ("--set", f"namespaces={{{namespace}}}")
    with chart.installed_rbac(cluster, *options, release=release, namespace=own):
        yield cluster.service_account(own, f"{release}-gateway")
    rest.delete(f"/api/v1/namespaces/{own}")


async def test_the_charts_rights_are_enough_and_callers_are_asked_who_they_are(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, account: Path, tmp_path: Path, pod: FakeTriton
) -> None:
    callers = tmp_path / "callers.yaml"
    callers.write_text(yaml.safe_dump({"callers": [{"name": "shop", "keys": [hash_key(KEY)], "allow": ["nowhere"]}]}))
    put_pods(rest, namespace, "r1", [pod])
    generation = put_route(rest, namespace, route(namespace, task("urgency", {"r1": 100})))
    own = cluster.kubectl("create", "token", "default", "--namespace", namespace, "--audience", "multitask-gateway")
    settings = {"MULTITASK_CALLERS_FILE": str(callers), "MULTITASK_REVIEW_TOKENS": "true"}
    with run_gateway(account, tmp_path, namespace, **settings) as gateway:
        await soon("it says what it follows", lambda: acknowledged(rest, namespace) == {"gateway-a": generation})
        name = f"{namespace}/desk/urgency"
        async with AsyncTaskClient(gateway.address, api_key=own.stdout.strip()) as client:
            assert (await client.predict(name, text="x")).revision == "r1"
        async with AsyncTaskClient(gateway.address) as client:
            with pytest.raises(Unauthenticated):
                await client.predict(name, text="x")
        async with AsyncTaskClient(gateway.address, api_key=KEY) as client:
            with pytest.raises(PermissionDenied):
                await client.predict(name, text="x")
            entry = {"name": "shop", "keys": [hash_key(KEY)], "allow": [namespace]}
            callers.write_text(yaml.safe_dump({"callers": [entry]}))
            await soon("the file is read again", lambda: "callers read from" in gateway.log_text())
            assert (await client.predict(name, text="x")).revision == "r1"


def reader(namespace: str) -> list[Object]:
    """The default account of a namespace may follow routes, and write nothing."""
    rules = [
        {"apiGroups": ["multitask.dev"], "resources": ["taskroutes"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    metadata = {"name": "reader", "namespace": namespace}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    reference = {"apiGroup": RBAC.split("/", maxsplit=1)[0], "kind": "Role", "name": "reader"}
    return [
        {"apiVersion": RBAC, "kind": "Role", "metadata": metadata, "rules": rules},
        {"apiVersion": RBAC, "kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": [subject]},
    ]


async def test_a_gateway_that_may_not_write_the_status_serves_and_says_so_once_it_may(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pod: FakeTriton
) -> None:
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=reader(namespace))
    put_pods(rest, namespace, "r1", [pod])
    generation = put_route(rest, namespace, route(namespace, task("urgency", {"r1": 100})))
    with run_gateway(cluster.service_account(namespace, "default"), tmp_path, namespace) as gateway:
        async with AsyncTaskClient(gateway.address) as client:
            assert (await client.predict(f"{namespace}/desk/urgency", text="x")).revision == "r1"
        await soon("it says what it lacks", lambda: "taskroutes.multitask.dev/status" in gateway.log_text())
        assert acknowledged(rest, namespace) == {}
        role, _ = reader(namespace)
        role["rules"].append({"apiGroups": ["multitask.dev"], "resources": ["taskroutes/status"], "verbs": ["patch"]})
        cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=role)
        await soon("it writes it", lambda: acknowledged(rest, namespace) == {"gateway-a": generation}, seconds=60)


def test_without_the_right_to_list_it_is_not_ready_says_why_and_ends_when_told(
    cluster: ClusterClient, namespace: str, tmp_path: Path
) -> None:
    config = cluster.service_account(namespace, "default")
    with run_gateway(config, tmp_path, namespace, wait=False) as gateway:
        gateway.until("it listens", lambda: "state on port" in gateway.log_text())
        gateway.until("it says why", lambda: MISSING in (gateway.get("readyz").json()["fault"] or ""))
        assert gateway.get("healthz").status_code == 200
        gateway.terminate()
        assert gateway.process.wait(60) == 0
