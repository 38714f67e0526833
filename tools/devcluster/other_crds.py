"""The CRDs of other projects whose objects the chart or a page has: ``python tools/devcluster/other_crds.py``.

They are read from the projects' Go modules and cached outside the checkout. Tests check our objects against them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from devcluster import cache, golang

Map = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A Go module, its version, and the file in it."""

    module: str
    version: str
    file: str


SOURCES: Mapping[str, Source] = {
    "certificates.cert-manager.io": Source(
        "github.com/cert-manager/cert-manager", "1.18.2", "deploy/crds/crd-certificates.yaml"
    ),
    "grpcroutes.gateway.networking.k8s.io": Source(
        "sigs.k8s.io/gateway-api", "1.3.0", "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"
    ),
    "podmonitors.monitoring.coreos.com": Source(
        "github.com/prometheus-operator/prometheus-operator",
        "0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
    "scaledobjects.keda.sh": Source(
        "github.com/kedacore/keda/v2", "2.17.2", "config/crd/bases/keda.sh_scaledobjects.yaml"
    ),
}


def path(name: str) -> Path:
    """The file of a CRD, fetched or not."""
    return cache.root() / "crds" / f"{name}-{SOURCES[name].version}.yaml"


def missing() -> list[str]:
    """The CRDs that are not fetched yet."""
    return [name for name in SOURCES if not path(name).is_file()]


def fetch() -> None:
    """Fetch the CRDs that are missing. Raises golang.GoFailed."""
    names = missing()
    if not names:
        return
    path(names[0]).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        go = golang.find_go(scratch)
        for name in names:
            source = SOURCES[name]
            module = f"{source.module}@v{source.version}"
            found = Path(json.loads(golang.run(go, ["mod", "download", "-json", module], scratch, scratch))["Dir"])
            whole = path(name).with_suffix(".part")
            whole.write_bytes((found / source.file).read_bytes())
            whole.rename(path(name))


def read(name: str) -> Map:
    """The CRD without what another program would have to be there for: templates of labels, conversion by a webhook."""
    document = yaml.safe_load(path(name).read_text("utf-8"))
    approved = {
        key: value
        for key, value in document["metadata"].get("annotations", {}).items()
        if key.startswith("api-approved")
    }
    metadata = {"name": document["metadata"]["name"], "annotations": approved}
    spec = {key: value for key, value in document["spec"].items() if key != "conversion"}
    return {"apiVersion": document["apiVersion"], "kind": document["kind"], "metadata": metadata, "spec": spec}


if __name__ == "__main__":
    fetch()
