"""Renders the chart with helm; installs its RBAC objects where no operator pod can run."""

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
RBAC_KINDS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


def helm() -> str | None:
    """The helm that ``make kubernetes`` built, or the one on PATH; None without one."""
    built = binaries.path("helm")
    return str(built) if built.is_file() else shutil.which("helm")


def template(*options: str, release: str = "mtm", namespace: str = "operators") -> subprocess.CompletedProcess[str]:
    """Run ``helm template``. FileNotFoundError without helm."""
    program = helm()
    if program is None:
        raise FileNotFoundError("helm: run `make kubernetes`")
    argv = [program, "template", release, str(CHART), "--namespace", namespace, "--kube-version", binaries.KUBERNETES]
    return subprocess.run([*argv, *options], capture_output=True, text=True, check=False)


def rendered(*options: str, release: str = "mtm", namespace: str = "operators") -> list[Object]:
    """The objects of the chart. AssertionError with helm's error."""
    done = template(*options, release=release, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


@contextmanager
def installed_rbac(client: ClusterClient, *options: str, release: str, namespace: str) -> Iterator[str]:
    """Install a release's accounts, roles and bindings while the context lasts; gives the operator's account."""
    objects = [item for item in rendered(*options, release=release, namespace=namespace) if item["kind"] in RBAC_KINDS]
    (account,) = (item["metadata"]["name"] for item in objects if _is_operators(item, "ServiceAccount"))
    user = f"system:serviceaccount:{namespace}:{account}"
    client.kubectl("apply", "--server-side", "--filename", "-", stdin=objects)
    try:
        roles = [item["metadata"] for item in objects if _is_operators(item, "Role")]
        for served in {role["namespace"] for role in roles if role["name"] == account} or {namespace}:
            until(
                f"{account} is allowed to work in {served}", lambda served=served: _is_allowed(client, user, served), 30
            )
        yield account
    finally:
        client.kubectl("delete", "--filename", "-", "--ignore-not-found", "--wait=false", stdin=objects)


def _is_operators(item: Object, kind: str) -> bool:
    return item["kind"] == kind and item["metadata"]["labels"]["app.kubernetes.io/name"] == CHART.name


def _is_allowed(client: ClusterClient, user: str, namespace: str) -> bool:
    """Whether RBAC allows the user to list models by now: the authorizer learns of new rules with a delay."""
    command = ("auth", "can-i", "list", "multitaskmodels.multitask.dev", "--as", user, "--namespace", namespace)
    return client.kubectl(*command, "--quiet", check=False).exit_code == 0
