"""A real Kubernetes of one node, without systemd, registry or network: pods run in it.

It is started in namespaces of its own (``devcluster.namespaces``), which end it. containerd keeps the images from run
to run; everything else is new every time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx
import yaml

from devcluster import binaries, node_files
from devcluster.control_plane import ControlPlane
from devcluster.node_files import ADDRESS, NODE
from devcluster.processes import Processes

PROGRAMS = ("containerd", "runc", "nft", "ip", "openssl")
_CGROUPS = Path("/sys/fs/cgroup")
_GROUP_PREFIX = "mtm-one-node-"


def lacking() -> str | None:
    """What this machine needs before a node can start here; None when nothing is missing."""
    if os.geteuid() != 0:
        return "root: containers are started"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent or not Path("/usr/lib/cni/bridge").exists():
        return f"{', '.join(absent) or 'the CNI plugins'}: run `tools/get_node_packages.sh`"
    if not (_CGROUPS / "memory").is_dir():
        return "cgroup v1: the node was never tried with cgroup v2"
    if binaries.missing(binaries.ONE_NODE):
        return f"{', '.join(binaries.missing(binaries.ONE_NODE))}: run `python tools/devcluster/binaries.py --one-node`"
    return None


class OneNode:
    """The cluster of who enters it as a context, inside ``devcluster.namespaces``.

    ``folder`` (made here, a short path) keeps its files and logs; ``store`` keeps containerd's images for the next run.
    ``images`` are archives to import, by reference; ``pause`` is the reference of the image that holds a pod's network.
    FileNotFoundError says what the machine lacks.
    """

    def __init__(self, folder: Path, store: Path, images: Mapping[str, Path], pause: str) -> None:
        fault = lacking()
        if fault:
            raise FileNotFoundError(fault)
        self._folder = folder
        self._store = store
        self._images = images
        self._pause = pause
        self._group = f"{_GROUP_PREFIX}{folder.name}"
        self._processes = Processes(folder)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        began = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._store.mkdir(parents=True, exist_ok=True)
        try:
            self._stack.enter_context(_alone(self._store / "lock"))
            self._make_place()
            self._start_containerd()
            plane = ControlPlane(self._folder / "control-plane", ADDRESS)
            self.client = self._stack.enter_context(plane).client
            self._start_node()
        except BaseException:
            self._close()
            raise
        self.seconds = time.monotonic() - began
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._close()

    def log(self, name: str) -> Path:
        """Where a program of the node logs."""
        return self._processes.log(name)

    def containers(self) -> set[str]:
        """The ids of the containers that run."""
        return set(self._ctr("tasks", "ls", "--quiet").split())

    def kill(self, container: str) -> None:
        """End a container's processes with SIGKILL, as a node that runs out of memory would."""
        self._ctr("tasks", "kill", "--all", "--signal", "SIGKILL", container)

    def _close(self) -> None:
        self._processes.stop("kubelet")
        with contextlib.suppress(OSError):
            _end_group(self._group)
        self._processes.stop_all()
        self._stack.close()

    def _make_place(self) -> None:
        subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        (self._folder / "resolv.conf").touch()
        for name in ("kubelet", "cni"):
            (self._folder / name).mkdir()
        kubelet = str(self._folder / "kubelet")
        subprocess.run(["mount", "--bind", kubelet, kubelet], check=True)
        subprocess.run(["mount", "--make-rshared", kubelet], check=True)
        sweep()
        _make_group(self._group)

    def _start_containerd(self) -> None:
        config = self._write("containerd.toml", node_files.containerd(self._folder, self._store, self._pause))
        self._write("cni/network.conflist", node_files.network(self._folder))
        self._processes.start("containerd", [shutil.which("containerd") or "", "--config", str(config)])
        self._processes.ready("containerd", lambda: self._try_ctr("version").returncode == 0)
        for container in self._ctr("containers", "ls", "--quiet").split():  # of a run that was killed
            self._ctr("containers", "rm", container)
        for reference, archive in self._images.items():
            self._import(reference, archive)

    def _import(self, reference: str, archive: Path) -> None:
        """An archive's name carries the digest of its content."""
        mark = self._store / f"imported-{archive.name}"
        if not mark.exists() or reference not in self._ctr("images", "ls", "--quiet").split():
            self._ctr("images", "import", str(archive))
            mark.touch()

    def _start_node(self) -> None:
        client, pki = self.client, self.client.folder / "pki"
        client.authority.sign(
            "kubelet", f"system:node:{NODE}", ("system:nodes",), hosts=(f"IP:{ADDRESS}", f"DNS:{NODE}")
        )
        config = client.user(f"system:node:{NODE}", ("system:nodes",))
        kubelet = self._write_yaml("kubelet.yaml", node_files.kubelet(self._folder, pki, f"/{self._group}"))
        proxy = self._write_yaml("proxy.yaml", node_files.proxy(client.user("system:kube-proxy")))
        corefile = self._write("Corefile", node_files.dns(client.user("dns")))
        scheduler = client.user("system:kube-scheduler")
        client.kubectl("apply", "-f", "-", stdin=list(_RIGHTS))
        self._start("kube-scheduler", f"--kubeconfig={scheduler}", "--leader-elect=false", "--secure-port=0")
        self._start(
            "kubelet",
            f"--config={kubelet}",
            f"--kubeconfig={config}",
            f"--root-dir={self._folder / 'kubelet'}",
            f"--cert-dir={self._folder / 'kubelet-pki'}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        )
        self._start("kube-proxy", f"--config={proxy}")
        self._start("coredns", "-conf", str(corefile))
        with client.rest() as rest:
            self._processes.ready("kubelet", lambda: _is_ready(rest))
        with httpx.Client(trust_env=False) as dns:
            self._processes.ready("coredns", lambda: _answers(dns, "http://127.0.0.1:8181/ready"))
            self._processes.ready("kube-proxy", lambda: _answers(dns, "http://127.0.0.1:10256/healthz"))

    def _start(self, name: str, *arguments: str) -> None:
        self._processes.start(name, [str(binaries.path(name)), *arguments])

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text, "utf-8")
        return path

    def _write_yaml(self, name: str, document: Mapping[str, object]) -> Path:
        return self._write(name, yaml.safe_dump(document))

    def _try_ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        address = str(self._folder / "containerd.sock")
        argv = ["ctr", "--address", address, "--namespace", "k8s.io", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def _ctr(self, *arguments: str) -> str:
        done = self._try_ctr(*arguments)
        assert done.returncode == 0, f"ctr {' '.join(arguments)}: {done.stderr}"
        return done.stdout


def _right(name: str, user: str, role: str) -> dict[str, object]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }


_RIGHTS = (
    _right("test-kubelet-client", "kubelet client of kube-apiserver", "system:kubelet-api-admin"),
    _right("test-dns", "dns", "system:kube-dns"),
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:kube-dns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    },
)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One cluster at a time uses a store. RuntimeError if another one does."""
    lock: IO[str]
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another cluster uses {path.parent}; wait until it has ended") from error
        yield


def _is_ready(rest: httpx.Client) -> bool:
    answer = rest.get(f"/api/v1/nodes/{NODE}")
    if not answer.is_success:
        return False
    conditions: Sequence[Mapping[str, str]] = answer.json()["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.TransportError:
        return False


def _controllers() -> list[Path]:
    return [path for path in sorted(_CGROUPS.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _make_group(name: str) -> None:
    for controller in _controllers():
        (controller / name).mkdir(exist_ok=True)
    for part in ("cpus", "mems"):  # a new group may use none
        whole = (_CGROUPS / "cpuset" / f"cpuset.{part}").read_text()
        (_CGROUPS / "cpuset" / name / f"cpuset.{part}").write_text(whole)


def sweep() -> None:
    """Remove the control groups of clusters that have ended: they outlive the namespaces, and are empty then."""
    for name in {path.name for path in _CGROUPS.glob(f"*/{_GROUP_PREFIX}*")}:
        _remove_group(name)


def _end_group(name: str) -> None:
    """Kill what runs in the group, which is ours alone, and remove it."""
    for procs in _CGROUPS.glob(f"*/{name}/**/cgroup.procs"):
        for pid in procs.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
    _remove_group(name)


def _remove_group(name: str) -> None:
    """Remove an empty group with its children; one in use stays."""
    for controller in _controllers():
        for folder in sorted((controller / name).glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
