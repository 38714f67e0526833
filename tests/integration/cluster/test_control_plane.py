"""The control plane that tests stand on: who may do what, what is written down, and that nothing outlives a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from devcluster import binaries, objects
from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane
from devcluster.processes import until
from devcluster.supervisor import shared_control_plane

TOOLS = Path(__file__).parents[3] / "tools"
SERVERS = {"etcd", "kube-apiserver", "kube-controller-manager"}


def test_users_and_service_accounts_may_do_what_rbac_lets_them(cluster: ClusterClient, namespace: str) -> None:
    account = cluster.service_account(namespace, "default")
    for config in (cluster.user("alice"), cluster.user("bob", groups=("readers",)), account):
        assert answer(cluster, config, namespace) == "no"
    cluster.kubectl("create", "role", "see", "--verb=get,list", "--resource=configmaps", "--namespace", namespace)
    subjects = ("--group=readers", f"--serviceaccount={namespace}:default")
    cluster.kubectl("create", "rolebinding", "see", "--role=see", *subjects, "--namespace", namespace)
    assert answer(cluster, cluster.user("alice"), namespace) == "no"
    assert answer(cluster, cluster.user("bob", groups=("readers",)), namespace) == "yes"
    assert answer(cluster, account, namespace) == "yes"
    with cluster.rest(account) as rest:
        assert rest.get(f"/api/v1/namespaces/{namespace}/configmaps").is_success
        assert rest.get(f"/api/v1/namespaces/{namespace}/secrets").status_code == 403


def answer(cluster: ClusterClient, config: Path, namespace: str) -> str:
    arguments = ("auth", "can-i", "list", "configmaps", "--namespace", namespace)
    return cluster.kubectl(*arguments, config=config, check=False).stdout.strip()


def test_the_audit_log_has_each_write_and_who_wrote(cluster: ClusterClient, namespace: str) -> None:
    mark = cluster.audit_mark()
    writer = cluster.user("writer", groups=("system:masters",))
    with cluster.rest(writer) as rest:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        objects.post(rest, path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}})
        rest.get(f"{path}/one")
        rest.delete(f"{path}/one")
    expected = [f"create configmaps {namespace}/one", f"delete configmaps {namespace}/one"]
    until("both writes are logged", lambda: cluster.writes(mark, "writer") == expected, seconds=5)
    assert [event["verb"] for event in cluster.audited(mark, "writer")] == ["create", "get", "delete"]


def test_a_job_makes_a_pod_and_goes_with_what_it_made(
    cluster: ClusterClient, rest: httpx.Client, namespace: str
) -> None:
    cluster.kubectl("create", "job", "train", "--image=trainer", "--namespace", namespace)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    until("the job has its pod", lambda: len(objects.get(rest, pods)["items"]) == 1, seconds=30)
    cluster.kubectl("delete", "job", "train", "--namespace", namespace, "--wait=false")
    until("the pod is gone", lambda: not objects.get(rest, pods)["items"], seconds=60)


def test_nodes_and_claims_are_what_tests_say(rest: httpx.Client, namespace: str) -> None:
    objects.node(rest, namespace[:40], resources={"nvidia.com/gpu": 8})
    assert objects.get(rest, f"/api/v1/nodes/{namespace[:40]}")["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    objects.claim(rest, namespace, "models")
    objects.claim(rest, namespace, "waiting", modes=("ReadWriteOnce",), bound=False)
    claims = objects.get(rest, f"/api/v1/namespaces/{namespace}/persistentvolumeclaims")["items"]
    assert {claim["metadata"]["name"]: claim["status"]["phase"] for claim in claims} == {
        "models": "Bound",
        "waiting": "Pending",
    }
    rest.delete(f"/api/v1/nodes/{namespace[:40]}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_api_server_comes_back_with_what_it_knew(own_cluster: ControlPlane, number: signal.Signals) -> None:
    with own_cluster.client.rest() as rest:
        objects.namespace(rest, "kept")
        own_cluster.restart_api_server(number)
        assert rest.get("/api/v1/namespaces/kept").is_success
        objects.namespace(rest, "new")


USER = """
import sys, time
from pathlib import Path
from devcluster.supervisor import shared_control_plane
with shared_control_plane(Path(sys.argv[1])) as client:
    print(client.url, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def user(tmp_path: Path, _able: None) -> Iterator[subprocess.Popen[str]]:
    """A process that uses a control plane of the folder ``tmp_path``/c, and prints its address."""
    environment = {**os.environ, "PYTHONPATH": str(TOOLS)}
    command = [sys.executable, "-c", USER, str(tmp_path / "c")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def test_processes_share_one_and_it_ends_after_the_last_of_them_was_killed(
    tmp_path: Path, user: subprocess.Popen[str]
) -> None:
    assert user.stdout is not None
    url = user.stdout.readline().strip()
    with shared_control_plane(tmp_path / "c") as client:
        assert client.url == url
        user.kill()
        user.wait()
        assert {process.name()[:15] for process in below(tmp_path)} == {name[:15] for name in SERVERS}
    until("every process has ended", lambda: not below(tmp_path), seconds=60)


def test_its_servers_end_with_a_supervisor_that_was_killed_and_the_next_user_starts_new_ones(
    tmp_path: Path, user: subprocess.Popen[str]
) -> None:
    assert user.stdout is not None
    assert user.stdout.readline()
    (supervisor,) = {process.parent() for process in below(tmp_path)}
    assert supervisor is not None
    supervisor.kill()
    until("its servers have ended", lambda: not below(tmp_path), seconds=30)
    with shared_control_plane(tmp_path / "c") as client, client.rest() as rest:
        assert rest.get("/readyz").is_success


def below(folder: Path) -> list[psutil.Process]:
    """The servers that run in ``folder``."""
    processes = []
    for process in psutil.process_iter():
        try:
            if Path(process.exe()).is_relative_to(binaries.folder()) and Path(process.cwd()).is_relative_to(folder):
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes
