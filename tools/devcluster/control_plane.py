"""A control plane for tests: etcd, kube-apiserver and kube-controller-manager on 127.0.0.1, without nodes.

Everything that needs no kubelet is real: storage, admission, authorization, garbage collection, the Job controller,
service account tokens. No pod runs. Nodes are objects that tests create (``objects.node``).
"""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from devcluster import binaries
from devcluster.cluster_client import ClusterClient
from devcluster.processes import DidNotStart, Processes

_ATTEMPTS = 3  # a port that was free may be taken a moment later
# Metadata of each request: who did what to which object. Requests between the servers themselves are left out.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "None", "nonResourceURLs": ["*"]},
        {"level": "Metadata"},
    ],
}
SERVICES = "10.97.0.0/16"
_FIRST_SERVICE = "10.97.0.1"  # the Service `kubernetes`, by which pods reach the API server
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
# Nodes have no kubelet that sends heartbeats: these controllers would mark them unreachable and evict their pods.
_WITHOUT_NODES = "*,-node-lifecycle-controller,-taint-eviction-controller"


def missing_requirements() -> str | None:
    """What is missing on this machine to start a control plane, with the command that installs it; None: nothing."""
    if binaries.missing():
        return f"Kubernetes ({', '.join(binaries.missing())} not in {binaries.folder()}): run `make kubernetes`"
    if shutil.which("openssl") is None:
        return "the openssl program, for certificates: install it (Debian: apt install openssl)"
    return None


class ControlPlane:
    """A context manager that runs a control plane; ``folder`` (created here) has its files and logs.

    Its servers end with the thread that entered it, even if that is killed. ``node_address``: an address of this
    machine on which kubelets reach the API server; by default it listens on 127.0.0.1. FileNotFoundError with what is
    missing on this machine.
    """

    def __init__(self, folder: Path, node_address: str | None = None) -> None:
        missing = missing_requirements()
        if missing:
            raise FileNotFoundError(missing)
        self._folder = folder
        self._nodes = node_address is not None
        self._address = node_address or "127.0.0.1"
        self._processes = Processes(folder)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        (self._folder / "audit-policy.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))
        try:
            self._start()
        except BaseException:
            self._processes.stop_all()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # Before the API server, which would wait for this one's watches to end.
        self._processes.stop("kube-controller-manager")
        self._processes.stop_all()
        shutil.rmtree(self._folder / "etcd", ignore_errors=True)

    @property
    def client(self) -> ClusterClient:
        """A client of this control plane."""
        return ClusterClient(self._folder, f"https://{self._address}:{self._port}")

    def stop_api_server(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the API server; SIGKILL is a crash."""
        self._processes.stop("kube-apiserver", number)

    def start_api_server(self) -> None:
        """Start it again on the same port, and wait until it is ready."""
        self._processes.start("kube-apiserver", self._api_server())
        with self.client.rest() as rest:
            self._processes.ready("kube-apiserver", lambda: _is_ready(rest))

    def restart_api_server(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it again."""
        self.stop_api_server(number)
        self.start_api_server()

    def _start(self) -> None:
        authority = ClusterClient(self._folder, "").authority
        authority.create()
        hosts = (*(f"IP:{each}" for each in (self._address, _FIRST_SERVICE)), *(f"DNS:{name}" for name in _NAMES))
        authority.sign("kube-apiserver", "kube-apiserver", hosts=hosts)
        authority.sign("kubelet-client", _KUBELET_CLIENT)
        authority.sign("service-accounts", "service accounts")  # not a user: its key signs service account tokens
        self._processes.start("etcd", self._etcd())
        for attempt in range(_ATTEMPTS):
            self._port = _free_port(self._address)
            try:
                self.start_api_server()
                break
            except DidNotStart as error:
                self._processes.stop("kube-apiserver")
                if "address already in use" not in str(error) or attempt == _ATTEMPTS - 1:
                    raise
        self._processes.start("kube-controller-manager", self._controller_manager())
        with self.client.rest() as rest:
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            self._processes.ready("kube-controller-manager", lambda: rest.get(path).status_code == 200)

    def _etcd(self) -> list[str]:
        # Unix sockets in this folder, which other users cannot enter: no ports or certificates. etcd requires a port in
        # every address and puts it into the socket's file name; the advertised addresses are never used.
        return [
            str(binaries.path("etcd")),
            "--data-dir=etcd",
            f"--listen-client-urls=unix://{_ETCD}",
            "--advertise-client-urls=http://127.0.0.1:1",
            "--listen-peer-urls=unix://peer:0",
            "--initial-advertise-peer-urls=http://127.0.0.1:2",
            "--initial-cluster=default=http://127.0.0.1:2",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _api_server(self) -> list[str]:
        pki = self._folder / "pki"
        return [
            str(binaries.path("kube-apiserver")),
            f"--etcd-servers=unix://{_ETCD}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={self._port}",
            f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
            f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            "--anonymous-auth=false",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'service-accounts.crt'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            f"--service-cluster-ip-range={SERVICES}",
            "--allow-privileged=true",
            "--audit-policy-file=audit-policy.yaml",
            "--audit-log-path=audit.log",
            "--audit-log-maxsize=100000",  # in MB: one file, never rotated
            "--profiling=false",
            *(self._api_server_for_nodes() if self._nodes else _API_SERVER_WITHOUT_NODES),
        ]

    def _api_server_for_nodes(self) -> list[str]:
        client = ClusterClient(self._folder, "").authority.key_pair("kubelet-client")
        return [
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-certificate-authority={self.client.ca_file}",
            f"--kubelet-client-certificate={client.certificate}",
            f"--kubelet-client-key={client.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _controller_manager(self) -> list[str]:
        pki, config = self._folder / "pki", self.client.user("system:kube-controller-manager")
        return [
            str(binaries.path("kube-controller-manager")),
            f"--kubeconfig={config}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            "--use-service-account-credentials",
            f"--controllers={'*' if self._nodes else _WITHOUT_NODES}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--profiling=false",
        ]


_ETCD = "client:0"
_KUBELET_CLIENT = "kubelet client of kube-apiserver"
_API_SERVER_WITHOUT_NODES = (
    "--authorization-mode=RBAC",
    "--endpoint-reconciler-type=none",  # a loopback address cannot be an endpoint
)


def _is_ready(rest: httpx.Client) -> bool:
    try:
        return rest.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
