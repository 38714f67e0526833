"""What a host lacks for a cluster of one node, found in seconds: before anything is built for it.

``python preflight.py`` prints one line for each thing that is missing, and ends with 1 if there is any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from devcluster import cache, namespaces

GIB = 1024**3
#: Of programs, environments, images and containerd's copies of them; of the data of a run and its logs.
CACHE_GIB, WORK_GIB = 20, 3
#: Of the control plane, the node, and two stages at a time.
MEMORY_GIB = 6
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")

_PRIVILEGED = "give the container CAP_SYS_ADMIN (docker run --privileged)"
_OVERLAY = "mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m"
_NAT = "table ip probe { chain nat { type nat hook prerouting priority 0; ct state new counter; }; }"
#: What a node does in its namespaces → a shell command that does the same, and what helps.
KERNEL: Mapping[str, tuple[str, str]] = {
    "mount a file system": ("mount -t tmpfs tmpfs /mnt", _PRIVILEGED),
    "share mounts with pods": (
        "mount -t tmpfs tmpfs /mnt && mount --make-rshared /mnt",
        _PRIVILEGED,
    ),
    "mount overlayfs, for containers": (
        f"mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir l u w m && {_OVERLAY}",
        "load the kernel module overlay",
    ),
    "make a bridge and a pair of interfaces, for the network of pods": (
        "ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2",
        "load the kernel modules bridge and veth, and give the container CAP_NET_ADMIN",
    ),
    "forward packets between pods": (
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "let /proc/sys be written (docker run --privileged)",
    ),
    "translate addresses with nftables, for Services": (
        f"echo '{_NAT}' | nft -f -",
        "load the kernel modules nf_tables, nft_chain_nat and nf_conntrack",
    ),
}


def host_problems(cgroups: Path = CGROUPS, work: Path | None = None) -> list[str]:
    """What the host itself lacks, without any program of a node: one line each, with what helps."""
    folder = cache.root()
    return [
        *_root_problems(),
        *_cgroup_problems(cgroups),
        *_space_problems(folder, CACHE_GIB - _gib_of(folder), "XDG_CACHE_HOME"),
        *_space_problems(work or Path(tempfile.gettempdir()), WORK_GIB, "TMPDIR"),
        *_memory_problems(Path("/proc/meminfo")),
    ]


def kernel_problems(kernel: Mapping[str, tuple[str, str]] = KERNEL) -> list[str]:
    """What the kernel does not do in namespaces of its own; it needs root and the programs ``ip`` and ``nft``."""
    try:
        failure = _failure("true")
    except FileNotFoundError as error:
        return [str(error)]
    if failure:
        return [f"network, mount and process namespaces cannot be made: {failure}; {_PRIVILEGED}"]
    failures = ((what, _failure(command), advice) for what, (command, advice) in kernel.items())
    return [f"the kernel does not {what}: {failure}; {advice}" for what, failure, advice in failures if failure]


def _root_problems() -> list[str]:
    return [] if os.geteuid() == 0 else ["root starts containers, and this user is another; run it with sudo"]


def _cgroup_problems(root: Path) -> list[str]:
    if (root / "cgroup.controllers").exists():
        option = "systemd.unified_cgroup_hierarchy=0"
        return [f"{root} is cgroup v2, and the node is set up for v1; start the host with {option}"]
    missing = [name for name in CONTROLLERS if not (root / name).is_dir()]
    if missing:
        return [f"the cgroup v1 controllers {', '.join(missing)} are not mounted below {root}; mount them there"]
    return [
        f"no control group can be made in {root / name}: {fault}; mount it writable (docker run --privileged)"
        for name in CONTROLLERS
        if (fault := _fault_of_group(root / name / f"mtm-preflight-{os.getpid()}"))
    ]


def _fault_of_group(path: Path) -> str:
    try:
        path.mkdir()
        path.rmdir()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _space_problems(folder: Path, gib: float, variable: str) -> list[str]:
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free / GIB
    if free >= gib:
        return []
    room = f"{existing} has {free:.1f} GiB free, and {gib:.1f} are needed"
    return [f"{room}; make room, or name another folder in {variable}"]


def _gib_of(folder: Path) -> float:
    """Of what is built already."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_blocks * 512 for path in files) / GIB if folder.exists() else 0.0


def _memory_problems(meminfo: Path) -> list[str]:
    (line,) = (each for each in meminfo.read_text().splitlines() if each.startswith("MemAvailable:"))
    free = int(line.split()[1]) * 1024 / GIB
    if free >= MEMORY_GIB:
        return []
    return [f"{free:.1f} GiB of memory are free, and {MEMORY_GIB} are needed; end other programs"]


def _failure(command: str) -> str:
    """The first line that a shell command printed that failed in namespaces of its own; empty if it succeeded."""
    done = subprocess.run(namespaces.command(["sh", "-c", command]), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return (done.stderr or done.stdout).strip().partition("\n")[0] or f"status {done.returncode}"


def main() -> int:
    """Print what is missing."""
    problems = host_problems() or kernel_problems()
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
