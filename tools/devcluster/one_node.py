"""A Kubernetes cluster of one node that runs pods, without systemd, registry or network.

It has to be started in its own Linux namespaces (``devcluster.namespaces``), which also end it. containerd keeps its
images between runs; everything else is new each time.
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
from devcluster.control_plane import SERVICES, ControlPlane
from devcluster.node_files import ADDRESS, NODE
from devcluster.processes import Processes

PROGRAMS = ("containerd", "runc", "nft", "ip", "openssl")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_PREFIX = "mtm-one-node-"


def missing_requirements(*, built: bool = True) -> str | None:
    """What is missing on this machine to start a node, with the command that installs it; None: nothing.

    ``built``: also what `make kubernetes` builds.
    """
    if os.geteuid() != 0:
        return "root, to start containers"
    missing_programs = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing_programs or not Path("/usr/lib/cni/bridge").exists():
        return f"{', '.join(missing_programs) or 'the CNI plugins'}: run `tools/get_node_packages.sh`"
    if not (_CGROUP_ROOT / "memory").is_dir():
        return "cgroup v1: the node was never tried with cgroup v2"
    if built and binaries.missing(binaries.ONE_NODE):
        return f"{', '.join(binaries.missing(binaries.ONE_NODE))}: run `python tools/devcluster/binaries.py --one-node`"
    return None


class OneNode:
    """A context manager that runs the cluster; use it inside ``devcluster.namespaces``.

    ``folder`` (created here, a short path) has its files and logs; ``store`` keeps containerd's images between runs.
    ``images``: image reference → archive to import; ``pause``: the reference of the pods' sandbox image.
    FileNotFoundError with what is missing on this machine.
    """

    def __init__(self, folder: Path, store: Path, images: Mapping[str, Path], pause: str) -> None:
        missing = missing_requirements()
        if missing:
            raise FileNotFoundError(missing)
        self._folder = folder
        self._store = store
        self._images = images
        self._pause = pause
        self._cgroup = f"{_CGROUP_PREFIX}{folder.name}"
        self._processes = Processes(folder)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        began = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._store.mkdir(parents=True, exist_ok=True)
        try:
            self._stack.enter_context(_exclusive_lock(self._store / "lock"))
            self._prepare_namespaces()
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
        """The log file of a program of the node."""
        return self._processes.log(name)

    def containers(self) -> set[str]:
        """The ids of the running containers."""
        return set(self._ctr("tasks", "ls", "--quiet").split())

    def kill(self, container: str) -> None:
        """Kill a container's processes with SIGKILL, as the kernel does when memory runs out."""
        self._ctr("tasks", "kill", "--all", "--signal", "SIGKILL", container)

    def tag(self, reference: str, other: str) -> None:
        """Give an image another reference too."""
        self._ctr("images", "tag", "--force", reference, other)

    def _close(self) -> None:
        self._processes.stop("kubelet")
        with contextlib.suppress(OSError):
            _kill_cgroup(self._cgroup)
        self._processes.stop_all()
        self._stack.close()

    def _prepare_namespaces(self) -> None:
        subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
        # Programs on the node reach Services too: kube-proxy sees what has a route, and there is no default one.
        subprocess.run(["ip", "route", "add", SERVICES, "dev", "lo", "src", ADDRESS], check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        (self._folder / "resolv.conf").touch()
        for name in ("kubelet", "cni"):
            (self._folder / name).mkdir()
        kubelet_root = str(self._folder / "kubelet")
        subprocess.run(["mount", "--bind", kubelet_root, kubelet_root], check=True)
        subprocess.run(["mount", "--make-rshared", kubelet_root], check=True)
        remove_stale_cgroups()
        _create_cgroup(self._cgroup)

    def _start_containerd(self) -> None:
        config = self._write("containerd.toml", node_files.containerd_config(self._folder, self._store, self._pause))
        self._write("cni/network.conflist", node_files.cni_config(self._folder))
        self._processes.start("containerd", [shutil.which("containerd") or "", "--config", str(config)])
        self._processes.ready("containerd", lambda: self._try_ctr("version").returncode == 0)
        for container in self._ctr("containers", "ls", "--quiet").split():  # of a run that was killed
            self._ctr("containers", "rm", container)
        for reference, archive in self._images.items():
            self._import(reference, archive)

    def _import(self, reference: str, archive: Path) -> None:
        """Import an archive, once for each file name: it contains the digest of the image."""
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
        kubelet_config = self._write_yaml(
            "kubelet.yaml", node_files.kubelet_config(self._folder, pki, f"/{self._cgroup}")
        )
        proxy_config = self._write_yaml("proxy.yaml", node_files.proxy_config(client.user("system:kube-proxy")))
        corefile = self._write("Corefile", node_files.corefile(client.user("dns")))
        scheduler = client.user("system:kube-scheduler")
        client.kubectl("apply", "-f", "-", stdin=list(_RBAC_OBJECTS))
        self._start("kube-scheduler", f"--kubeconfig={scheduler}", "--leader-elect=false", "--secure-port=0")
        self._start(
            "kubelet",
            f"--config={kubelet_config}",
            f"--kubeconfig={config}",
            f"--root-dir={self._folder / 'kubelet'}",
            f"--cert-dir={self._folder / 'kubelet-pki'}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        )
        self._start("kube-proxy", f"--config={proxy_config}")
        self._start("coredns", "-conf", str(corefile))
        with client.rest() as rest:
            self._processes.ready("kubelet", lambda: _is_ready(rest))
        with httpx.Client(trust_env=False) as http:
            self._processes.ready("coredns", lambda: _responds(http, "http://127.0.0.1:8181/ready"))
            self._processes.ready("kube-proxy", lambda: _responds(http, "http://127.0.0.1:10256/healthz"))

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


def _cluster_role_binding(name: str, user: str, role: str) -> dict[str, object]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }


_RBAC_OBJECTS = (
    _cluster_role_binding("test-kubelet-client", "kubelet client of kube-apiserver", "system:kubelet-api-admin"),
    _cluster_role_binding("test-dns", "dns", "system:kube-dns"),
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
def _exclusive_lock(path: Path) -> Iterator[None]:
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


def _responds(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.TransportError:
        return False


def _cgroup_controllers() -> list[Path]:
    return [
        path for path in sorted(_CGROUP_ROOT.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()
    ]


def _create_cgroup(name: str) -> None:
    for controller in _cgroup_controllers():
        (controller / name).mkdir(exist_ok=True)
    for part in ("cpus", "mems"):  # empty in a new group
        whole = (_CGROUP_ROOT / "cpuset" / f"cpuset.{part}").read_text()
        (_CGROUP_ROOT / "cpuset" / name / f"cpuset.{part}").write_text(whole)


def remove_stale_cgroups() -> None:
    """Remove the empty control groups of clusters that have ended: the kernel does not remove them."""
    for name in {path.name for path in _CGROUP_ROOT.glob(f"*/{_CGROUP_PREFIX}*")}:
        _remove_cgroup(name)


def _kill_cgroup(name: str) -> None:
    """Kill all processes of the group and remove it."""
    for procs in _CGROUP_ROOT.glob(f"*/{name}/**/cgroup.procs"):
        for pid in procs.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
    _remove_cgroup(name)


def _remove_cgroup(name: str) -> None:
    """Remove an empty group and its children; groups in use stay."""
    for controller in _cgroup_controllers():
        for folder in sorted((controller / name).glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
