"""Upgrades: an operator of another release, and another chart.

A newer release whose stages compute something else differs from this one in the file ``versions.py``; the file is laid
over that of the image, and the Deployment rolled. The older chart is a frozen one.
"""

from __future__ import annotations

import json
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from devcluster.cluster_client import ClusterClient
from e2e.in_cluster.namespace import Namespace
from e2e.in_cluster.serving import server_pods
from e2e.in_cluster.steps import ROOT
from multitask_api.stages import versions

OPERATOR = "multitask-multitask-operator"
_SHIPPED = ROOT / "tests/fixtures/frozen/chart-0.1.0-gateway.tgz"
_NAMESPACE = "multitask"
_NAME = "other-release"
#: Programs for the operator's Python: where the file is, and what it says.
_FIND = "import multitask_api.stages.versions as module; print(module.__file__)"
_SHOW = "import json, multitask_api.stages.versions as module; print(json.dumps(module.VERSIONS))"


def install_release(client: ClusterClient, *, newer_by: int, serving_image: str | None = None) -> None:
    """Roll the operator of a release whose stage VERSIONS are all higher by ``newer_by``; 0 is this release.

    ``serving_image``: of its servers; None: as before.
    """
    arguments = ("--namespace", _NAMESPACE)
    found = client.kubectl("exec", f"deployment/{OPERATOR}", *arguments, "--", "python", "-c", _FIND)
    configmap = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{_NAME}-{newer_by}", "namespace": _NAMESPACE},
        "data": {"versions.py": raised_source(newer_by)},
    }
    client.kubectl("apply", "-f", "-", stdin=configmap)
    mount = {"name": _NAME, "mountPath": found.stdout.strip(), "subPath": "versions.py"}
    pod = {
        "volumes": [{"name": _NAME, "configMap": {"name": configmap["metadata"]["name"]}}],
        "containers": [
            {
                "name": "operator",
                "volumeMounts": [mount],
                "env": [{"name": "MULTITASK_SERVING_IMAGE", "value": serving_image}] if serving_image else [],
            }
        ],
    }
    patch = json.dumps({"spec": {"template": {"spec": pod}}})
    client.kubectl("patch", "deployment", OPERATOR, *arguments, "--patch", patch)
    client.kubectl("rollout", "status", f"deployment/{OPERATOR}", *arguments, "--timeout", "180s")
    shown = client.kubectl("exec", f"deployment/{OPERATOR}", *arguments, "--", "python", "-c", _SHOW).stdout
    expected = {kind: version + newer_by for kind, version in versions.VERSIONS.items()}
    assert json.loads(shown) == expected, shown


def shipped_chart(folder: Path) -> Path:
    """The chart that installed gateways first, unpacked below ``folder``."""
    with tarfile.open(_SHIPPED) as archive:
        archive.extractall(folder / "shipped", filter="data")
    return folder / "shipped" / "multitask-operator"


def raised_source(newer_by: int) -> str:
    """The source of ``versions.py`` with every number of VERSIONS, and of no other table, higher by ``newer_by``."""
    with open(versions.__file__, encoding="utf-8") as file:  # noqa: PTH123 - a module's own file
        source = file.read()
    before, name, rest = source.partition("VERSIONS: Versions = {")
    table, brace, after = rest.partition("}")
    raised = re.sub(r": (\d+),", lambda match: f": {int(match[1]) + newer_by},", table)
    return before + name + raised + brace + after


def assert_nothing_happens(namespace: Namespace, model: str, change: Callable[[], None], seconds: float) -> str:
    """Through ``change`` and ``seconds`` after it nothing is trained or rolled out.

    The model stays trained on the same revision, without a new Job; its servers and routes stay.
    """
    jobs = {job["metadata"]["uid"] for job in namespace.jobs(model)}
    revision, served = namespace.model(model)["status"].get("revision"), _served(namespace, model)
    change()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = namespace.model(model)["status"]
        new = {job["metadata"]["uid"] for job in namespace.jobs(model)} - jobs
        assert not new, f"{len(new)} Jobs are new"
        reasons = {each["type"]: (each["status"], each["reason"]) for each in now["conditions"]}
        assert reasons["Trained"] == ("True", "Trained"), reasons
        assert now.get("revision") == revision
        assert _served(namespace, model) == served
        time.sleep(2)
    return f"{len(jobs)} Jobs, result {revision}, {len(served) - 1} servers"


def _served(namespace: Namespace, model: str) -> list[object]:
    """The table of routes, and the servers that it leads to."""
    table = namespace.client.get("taskroutes", model, "--namespace", namespace.name)["spec"]
    pods = server_pods(namespace, model)
    return [table, *sorted((pod["metadata"]["uid"], pod["spec"]["containers"][0]["image"]) for pod in pods)]
