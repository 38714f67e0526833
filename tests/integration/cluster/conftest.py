"""A control plane for the tests of this folder: one for all test processes, or one that a test may break."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane, missing_requirements
from devcluster.processes import until
from devcluster.supervisor import shared_control_plane

CRDS = Path(__file__).parents[3] / "crds"


@pytest.fixture(scope="session")
def _able() -> None:
    fault = missing_requirements()
    if fault:
        pytest.skip(f"needs {fault}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[ClusterClient]:
    """The control plane that all tests share, with the CRDs installed. A test works in its own ``namespace``."""
    base = tmp_path_factory.getbasetemp()
    with shared_control_plane((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cluster") as client:
        install_crds(client)
        yield client


@pytest.fixture
def own_cluster(tmp_path: Path, _able: None) -> Iterator[ControlPlane]:
    """A control plane for one test, which may stop its servers; with the CRDs installed."""
    with ControlPlane(tmp_path / "cluster") as plane:
        install_crds(plane.client)
        yield plane


@pytest.fixture(scope="session")
def rest(cluster: ClusterClient) -> Iterator[httpx.Client]:
    """The REST API as the admin."""
    with cluster.rest() as client:
        yield client


@pytest.fixture
def namespace(rest: httpx.Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, named after it; its objects go with it, later."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    name = f"{words[:40].strip('-')}-{os.urandom(3).hex()}"
    objects.namespace(rest, name)
    yield name
    rest.delete(f"/api/v1/namespaces/{name}")


def install_crds(client: ClusterClient) -> None:
    """Apply the CRDs of this checkout, and wait until their resources are served."""
    client.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(CRDS))
    with client.rest() as rest:
        for resource in ("multitaskmodels", "taskroutes"):
            path = f"/apis/multitask.dev/v1alpha1/{resource}"
            until(f"{resource} are served", lambda path=path: rest.get(path).is_success, seconds=30)
