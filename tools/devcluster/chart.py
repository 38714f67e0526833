"""The chart as helm renders it, and the part of an installation that a control plane without nodes can use: access."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from devcluster import binaries
from devcluster.cluster_client import ClusterClient, Object
from devcluster.processes import until

CHART = Path(__file__).parents[2] / "helm" / "multitask-operator"
ACCESS_KINDS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


def helm() -> str | None:
    """The helm that ``make kubernetes`` built, else one of this machine; None if there is none."""
    built = binaries.path("helm")
    return str(built) if built.is_file() else shutil.which("helm")


def template(*options: str, release: str = "mtm", namespace: str = "operators") -> subprocess.CompletedProcess[str]:
    """``helm template``; FileNotFoundError without a helm."""
    program = helm()
    if program is None:
        raise FileNotFoundError("helm: run `make kubernetes`")
    argv = [program, "template", release, str(CHART), "--namespace", namespace, "--kube-version", binaries.KUBERNETES]
    return subprocess.run([*argv, *options], capture_output=True, text=True, check=False)


def rendered(*options: str, release: str = "mtm", namespace: str = "operators") -> list[Object]:
    """What is installed. AssertionError with helm's words."""
    done = template(*options, release=release, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


@contextmanager
def access_of(client: ClusterClient, *options: str, release: str, namespace: str) -> Iterator[str]:
    """A release's accounts, roles and bindings for as long as the context lasts; the name of its service account."""
    found = [item for item in rendered(*options, release=release, namespace=namespace) if item["kind"] in ACCESS_KINDS]
    (account,) = (item["metadata"]["name"] for item in found if item["kind"] == "ServiceAccount")
    user = f"system:serviceaccount:{namespace}:{account}"
    client.kubectl("apply", "--server-side", "--filename", "-", stdin=found)
    try:
        for served in {item["metadata"]["namespace"] for item in found if item["kind"] == "Role"} or {namespace}:
            until(f"{account} is allowed to work in {served}", lambda served=served: _may(client, user, served), 30)
        yield account
    finally:
        client.kubectl("delete", "--filename", "-", "--ignore-not-found", "--wait=false", stdin=found)


def _may(client: ClusterClient, user: str, namespace: str) -> bool:
    """Whether the API server knows of the rules by now: it learns of them a moment after it has stored them."""
    asked = ("auth", "can-i", "list", "multitaskmodels.multitask.dev", "--as", user, "--namespace", namespace)
    return client.kubectl(*asked, "--quiet", check=False).exit_code == 0
