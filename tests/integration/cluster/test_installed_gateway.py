"""The gateway as the chart installs it, against a real API server: its rights, its Secrets, and who may call it."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from devcluster import chart, objects
from devcluster.cluster_client import ClusterClient, Object
from multitask_api.serving_io.names import GATEWAY_AUDIENCE as AUDIENCE
from multitask_client import AsyncTaskClient, GatewayError, Tls
from multitask_serving.gateway.access.callers import hash_key
from multitask_serving.gateway.smoke_test import main as smoke_test
from support.cluster.gateway_process import (
    HOST,
    GatewayProcess,
    acknowledged,
    put_pods,
    put_route,
    route,
    run_gateway,
    task,
)
from support.fake_triton import FakeTriton, running

pytestmark = pytest.mark.integration
OK, UNKNOWN, DENIED = "OK", "UNAUTHENTICATED", "PERMISSION_DENIED"


@dataclass(frozen=True)
class Installed:
    """A gateway that runs, and the files of the chart's Secrets."""

    gateway: GatewayProcess
    folder: Path
    namespace: str

    async def ask(self, key: str | None) -> str:
        """The status of a prediction with this key or token."""
        tls = Tls(ca=self.folder / "tls/ca.crt")
        try:
            async with AsyncTaskClient(self.gateway.address, timeout_s=30, api_key=key, tls=tls) as client:
                await client.predict(f"{self.namespace}/desk/urgency", text="x")
        except GatewayError as error:
            return error.status.name
        return OK

    async def label(self, key: str, request_id: str) -> str:
        """The status of a report that the answer was right; whether it counted."""
        tls = Tls(ca=self.folder / "tls/ca.crt")
        try:
            async with AsyncTaskClient(self.gateway.address, timeout_s=30, api_key=key, tls=tls) as client:
                return f"{OK} {await client.report_label(request_id, 'low')}"
        except GatewayError as error:
            return error.status.name

    @property
    def key_file(self) -> Path:
        return self.folder / "key/api-key"


@pytest.fixture
def installed(cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path) -> Iterator[Installed]:
    """Installed beside the models, as a release of its own, for one namespace."""
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    release = f"r-{os.urandom(3).hex()}"
    values = f"namespaces={{{namespace}}},aggregatedRoles=false,crds.enabled=false,gateway.labels.enabled=true"
    options = ("--set", values)
    rendered = chart.rendered(*options, release=release, namespace=namespace)
    for item in rendered:
        if item["kind"] == "Secret":
            write(item["data"], tmp_path / item["metadata"]["name"].removeprefix(f"{release}-gateway-"))
    (deployment,) = (
        item for item in rendered if item["metadata"]["name"] == f"{release}-gateway" and item["kind"] == "Deployment"
    )
    with chart.installed_rbac(cluster, *options, release=release, namespace=namespace):
        account = cluster.service_account(namespace, f"{release}-gateway")
        with run_gateway(account, tmp_path, **variables(deployment, tmp_path)) as gateway:
            yield Installed(gateway, tmp_path, namespace)


def write(data: dict[str, str], folder: Path) -> None:
    folder.mkdir()
    for name, content in data.items():
        (folder / name).write_bytes(base64.b64decode(content))


def variables(deployment: Object, folder: Path) -> dict[str, str]:
    """The environment that the chart gives; what it mounts is in ``folder``."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {
        name: value.replace("/etc/multitask", str(folder))
        for name, value in given.items()
        if name.startswith("MULTITASK_")
    }


@pytest.fixture
async def server() -> AsyncIterator[FakeTriton]:
    async with running(FakeTriton(HOST)) as (only,):
        yield only


def token(rest: httpx.Client, namespace: str, *audiences: str) -> str:
    """One of the ServiceAccount `default`."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    answer = rest.post(path, json={"spec": {"audiences": list(audiences)}})
    result: str = answer.raise_for_status().json()["status"]["token"]
    return result


async def test_a_label_is_reported_by_whoever_may_call_the_task(
    rest: httpx.Client, installed: Installed, server: FakeTriton
) -> None:
    namespace, gateway = installed.namespace, installed.gateway
    put_pods(rest, namespace, "r1", [server])
    generation = put_route(rest, namespace, route(namespace, task("urgency", {"r1": 100})))
    gateway.until("it follows the routes", lambda: gateway.follows(namespace) == generation)
    elsewhere = f"{namespace[:50]}-else"
    objects.namespace(rest, elsewhere)
    for each in (namespace, elsewhere):
        gateway.until("the account is there", lambda where=each: rest.get(_default(where)).is_success)
    own, other = token(rest, namespace, AUDIENCE), token(rest, elsewhere, AUDIENCE)

    tls = Tls(ca=installed.folder / "tls/ca.crt")
    async with AsyncTaskClient(gateway.address, api_key=installed.key_file.read_text(), tls=tls) as client:
        request_id = (await client.predict(f"{namespace}/desk/urgency", text="x")).request_id
    statuses = [await installed.label(key, request_id) for key in ("x" * 48, other, own, own)]
    assert statuses == [UNKNOWN, DENIED, "OK True", "OK False"]
    (counts,) = [each.labels for each in gateway.state().counts if each.labels is not None]
    assert (counts.right, counts.wrong) == (1, 0)


async def test_who_may_call_it(
    rest: httpx.Client, installed: Installed, server: FakeTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace, gateway = installed.namespace, installed.gateway
    put_pods(rest, namespace, "r1", [server])
    generation = put_route(rest, namespace, route(namespace, task("urgency", {"r1": 100})))
    gateway.until("it follows the routes", lambda: gateway.follows(namespace) == generation)
    gateway.until("it says so", lambda: acknowledged(rest, namespace) == {"gateway-a": generation})

    # helm test, with the generated key
    arguments = ["--address", gateway.address, "--ca", str(installed.folder / "tls/ca.crt")]
    assert await asyncio.to_thread(smoke_test, [*arguments, "--api-key-file", str(installed.key_file)]) == 0
    assert "urgency answered 'low'" in capsys.readouterr().out

    elsewhere = f"{namespace[:50]}-other"
    objects.namespace(rest, elsewhere)
    gateway.until("the account is there", lambda: rest.get(_default(elsewhere)).is_success)
    statuses = {
        "nobody": await installed.ask(None),
        "a wrong key": await installed.ask("x" * 48),
        "a pod of the namespace": await installed.ask(token(rest, namespace, AUDIENCE)),
        "its own token of the API server": await installed.ask(token(rest, namespace)),
        "a pod of another namespace": await installed.ask(token(rest, elsewhere, AUDIENCE)),
    }
    assert statuses == {
        "nobody": UNKNOWN,
        "a wrong key": UNKNOWN,
        "a pod of the namespace": OK,
        "its own token of the API server": UNKNOWN,
        "a pod of another namespace": DENIED,
    }

    # the Secret is changed: another key counts, the old one no longer
    callers = {"callers": [{"name": "shop", "keys": [hash_key("s" * 40)], "allow": [f"{namespace}/desk"]}]}
    (installed.folder / "callers/callers.yaml").write_text(yaml.safe_dump(callers))
    gateway.until("it has read them", lambda: "callers read from" in gateway.log_text())
    assert await installed.ask("s" * 40) == OK
    assert await installed.ask(installed.key_file.read_text()) == UNKNOWN
    assert "s" * 40 not in gateway.log_text()
    await asyncio.to_thread(rest.delete, f"/api/v1/namespaces/{elsewhere}")


def _default(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
