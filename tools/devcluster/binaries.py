"""Builds Kubernetes, etcd, CoreDNS and helm from their Go modules: ``python binaries.py [PROGRAM …]``.

Programs are cached outside the checkout, each in a folder named by its version and a hash of all build inputs. A
program is moved into place when it is complete, so an interrupted build continues with the next missing program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from devcluster import cache, golang

KUBERNETES = "1.34.4"
ETCD = "3.6.4"
COREDNS = "1.15.0"
HELM = "3.22.0"

#: The programs of a control plane, and those of a cluster of one node.
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
ONE_NODE = (*CONTROL_PLANE, "kube-scheduler", "kubelet", "kube-proxy", "coredns", "helm")


@dataclass(frozen=True)
class Program:
    """A Go package, its version, the modules that it is built from, and the variables that the linker sets.

    The names of the fields are part of the hash that names a program's folder.
    """

    version: str
    package: str
    modules: tuple[str, ...]
    linked: tuple[str, ...] = ()


_MAJOR, _MINOR, _ = KUBERNETES.split(".")
_LINKED = tuple(
    f"k8s.io/{module}/version.{name}={value}"
    for module in ("component-base", "client-go/pkg")
    for name, value in (("gitVersion", f"v{KUBERNETES}"), ("gitMajor", _MAJOR), ("gitMinor", _MINOR))
)
_CORE = (f"k8s.io/kubernetes v{KUBERNETES}", f"go.etcd.io/etcd/server/v3 v{ETCD}")
_FLAGS = ("-trimpath", "-buildvcs=false")
PROGRAMS: Mapping[str, Program] = {
    "etcd": Program(ETCD, "go.etcd.io/etcd/server/v3", _CORE),
    "coredns": Program(COREDNS, "github.com/coredns/coredns", (f"github.com/coredns/coredns v{COREDNS}",)),
    "helm": Program(HELM, "helm.sh/helm/v3/cmd/helm", (f"helm.sh/helm/v3 v{HELM}",)),
    **{
        name: Program(KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", _CORE, _LINKED)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
    },
}


def folder() -> Path:
    """The folder of all built programs."""
    return cache.root() / "programs"


def path(name: str) -> Path:
    """The file of a program, built or not."""
    program = PROGRAMS[name]
    inputs = json.dumps([_FLAGS, asdict(program)], sort_keys=True)
    return folder() / f"{name}-{program.version}-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}" / name


def missing(names: Sequence[str] = CONTROL_PLANE) -> list[str]:
    """The programs among ``names`` that are not built yet."""
    return [name for name in names if not path(name).is_file()]


def build(names: Sequence[str]) -> None:
    """Build the programs among ``names`` that are missing. Raises golang.GoFailed."""
    if not missing(names):
        return
    target = folder()
    target.mkdir(parents=True, exist_ok=True)
    with cache.exclusive_lock(target / ".lock"), cache.scratch_folder(target / ".build") as scratch:
        to_build = missing(names)
        if not to_build:  # another process built them in the meantime
            return
        go = golang.find_go(scratch)
        for number, name in enumerate(to_build, start=1):
            began = time.monotonic()
            print(f"{name}: building ({number} of {len(to_build)})", flush=True)
            _build(go, name, scratch)
            print(f"{name}: built in {time.monotonic() - began:.0f} s", flush=True)


def _build(go: Path, name: str, scratch: Path) -> None:
    program = PROGRAMS[name]
    module, binary = scratch / f"module-{name}", scratch / name
    module.mkdir()
    (module / "go.mod").write_text(_module(go, program, scratch))
    flags = " ".join(["-s -w", *(f"-X {value}" for value in program.linked)])
    golang.run(go, ["build", *_FLAGS, "-ldflags", flags, "-o", str(binary), program.package], module, scratch)
    path(name).parent.mkdir(exist_ok=True)
    binary.rename(path(name))


def _module(go: Path, program: Program, scratch: Path) -> str:
    """The ``go.mod`` of a main module that requires the program's modules.

    k8s.io/kubernetes requires its staging modules as v0.0.0: the main module has to replace them with a real version.
    """
    lines = [f"module multitask.dev/build\n\ngo {'.'.join(map(str, golang.OLDEST))}.0\n"]
    lines += [f"require {module}" for module in program.modules]
    for module in program.modules:
        name, version = module.split()
        if name == "k8s.io/kubernetes":
            own = re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0$", _go_mod_of(go, name, version, scratch), re.MULTILINE)
            lines += [f"replace {part} => {part} v0.{version.split('.', 1)[1]}" for part in sorted(set(own))]
    return "\n".join(lines) + "\n"


def _go_mod_of(go: Path, name: str, version: str, scratch: Path) -> str:
    output = golang.run(go, ["mod", "download", "-json", f"{name}@{version}"], scratch, scratch)
    return Path(json.loads(output)["GoMod"]).read_text("utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the named programs."""
    parser = argparse.ArgumentParser(description="Build Kubernetes' programs from their Go modules.")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"one of {', '.join(PROGRAMS)}")
    parser.add_argument("--one-node", action="store_true", help="everything that a cluster of one node needs")
    arguments = parser.parse_args(argv)
    names = arguments.programs or (ONE_NODE if arguments.one_node else CONTROL_PLANE)
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        parser.error(f"no such program: {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    try:
        build(names)
    except golang.GoFailed as error:
        print(error, file=sys.stderr)
        return 1
    for name in names:
        print(path(name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
