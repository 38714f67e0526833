"""A control plane for tests: etcd, kube-apiserver and kube-controller-manager on 127.0.0.1, without nodes.

Everything is real but what needs a kubelet: objects are stored, admitted, authorized and garbage-collected, Jobs make
pods, service accounts get tokens; no pod runs. Nodes are objects that tests write (``objects.node``).
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
# Requests at metadata level: who did what to which object. The servers' talk among themselves is left out.
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
_SERVICES = "10.97.0.0/16"
_FIRST_SERVICE = "10.97.0.1"  # the Service `kubernetes`, by which pods reach the API server
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
# Nodes here have no kubelet that reports: nobody may find them lost and take their pods away.
_WITHOUT_NODES = "*,-node-lifecycle-controller,-taint-eviction-controller"


def lacking() -> str | None:
    """What this machine needs before a control plane can start here; None when nothing is missing."""
    if binaries.missing():
        return f"Kubernetes ({', '.join(binaries.missing())} not in {binaries.folder()}): run `make kubernetes`"
    if shutil.which("openssl") is None:
        return "the openssl program, for certificates: install it (Debian: apt install openssl)"
    return None


class ControlPlane:
    """A control plane of its own for who enters it as a context; ``folder`` (made here) keeps its files and logs.

    Its servers end with the thread that entered it, however that ends. With ``node_address``, an address of this
    machine, it serves there for kubelets; without, on 127.0.0.1. FileNotFoundError says what the machine lacks.
    """

    def __init__(self, folder: Path, node_address: str | None = None) -> None:
        fault = lacking()
        if fault:
            raise FileNotFoundError(fault)
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
        # Before an API server that was started anew: it would wait for this one's watches to end.
        self._processes.stop("kube-controller-manager")
        self._processes.stop_all()
        shutil.rmtree(self._folder / "etcd", ignore_errors=True)

    @property
    def client(self) -> ClusterClient:
        """How users reach it."""
        return ClusterClient(self._folder, f"https://{self._address}:{self._port}")

    def stop_api_server(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the API server; SIGKILL is a crash."""
        self._processes.stop("kube-apiserver", number)

    def start_api_server(self) -> None:
        """Start it again, at its old address, and wait until it answers."""
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
        authority.sign("service-accounts", "service accounts")  # no user: its key signs their tokens
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
        # Sockets in this folder, which is closed to other users: neither ports nor certificates are needed. etcd wants
        # a port in every address and makes it part of the file's name; the advertised ones are never called.
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
            f"--service-cluster-ip-range={_SERVICES}",
            "--allow-privileged=true",
            "--audit-policy-file=audit-policy.yaml",
            "--audit-log-path=audit.log",
            "--audit-log-maxsize=100000",  # in MB: one file, never rotated
            "--profiling=false",
            *(self._api_server_for_nodes() if self._nodes else _API_SERVER_WITHOUT_NODES),
        ]

    def _api_server_for_nodes(self) -> list[str]:
        client = ClusterClient(self._folder, "").authority.pair("kubelet-client")
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
    "--endpoint-reconciler-type=none",  # a loopback address is no endpoint
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
