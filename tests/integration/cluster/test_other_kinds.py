"""Objects of other projects' kinds, in the chart and on a page: they fit the definitions of those projects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import chart, other_crds
from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane
from support.pages import example

SCALING = Path(__file__).parents[3] / "docs/how-to/autoscale.md"
VALUES = {
    "crds": {"enabled": False},
    "gateway": {
        "tls": {"mode": "CertManager", "certManager": {"issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}},
        "grpcRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["models.example"]},
    },
    "metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[ClusterClient]:
    """A control plane with the definitions of the other projects alone."""
    if missing := other_crds.missing():
        pytest.skip(f"needs the CRDs {', '.join(missing)}: `make kubernetes` fetches them")
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    with ControlPlane(tmp_path_factory.mktemp("others") / "cluster") as plane:
        definitions = [other_crds.read(name) for name in other_crds.SOURCES]
        plane.client.kubectl("apply", "--server-side", "--filename", "-", stdin=definitions)
        plane.client.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield plane.client


def check(client: ClusterClient, item: dict[str, Any]) -> None:
    """The API server takes the object, and knows each of its fields."""
    item["metadata"]["namespace"] = "default"
    client.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=item)


def test_those_of_the_chart(others: ClusterClient, tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text(json.dumps(VALUES))
    rendered = chart.rendered("--values", str(tmp_path / "values.json"))
    groups = {name.partition(".")[2] for name in other_crds.SOURCES}
    checked = [item for item in rendered if item["apiVersion"].partition("/")[0] in groups]
    assert sorted(item["kind"] for item in checked) == ["Certificate", "GRPCRoute", "PodMonitor", "PodMonitor"]
    for item in checked:
        check(others, item)


def test_the_autoscaler_on_the_page(others: ClusterClient) -> None:
    check(others, example(SCALING, "ScaledObject"))
