"""A control plane with the operator in it, for many models at once, each in a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster import chart, objects
from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane
from integration.cluster.conftest import install_crds
from support.cluster.informer import Informer
from support.cluster.operator_process import run_operator

IMAGE = "registry.example/trainer:1"
MODELS = "/apis/multitask.dev/v1alpha1"
#: Seconds between two resyncs; much shorter than the default.
RESYNC = "20"


@dataclass(frozen=True)
class OperatorCluster:
    """Informers of models, pods and Jobs; ``viewer`` is the kubeconfig of a user with the rights of `mtm`."""

    client: ClusterClient
    models: Informer
    pods: Informer
    jobs: Informer
    viewer: Path
    log: Path

    def create_namespace(self, rest, name, *, labels=None, may_create_jobs=True):
        """A namespace that the operator serves; unless ``whole``, it may not create Jobs there."""
        objects.namespace(rest, name)
        if labels:
            rest.patch(f"/api/v1/namespaces/{name}", json={"metadata": {"labels": labels}}, headers=objects.MERGE)
        if may_create_jobs:
            self.allow_jobs(rest, name)

    def allow_jobs(self, rest, namespace):
        """Let the operator create Jobs in the namespace."""
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "operator"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator-jobs"}
        body = {"metadata": {"name": "operator-jobs"}, "roleRef": role, "subjects": [subject]}
        objects.post(rest, f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", body)


@contextmanager
def start_operator_cluster(folder: Path) -> Iterator[OperatorCluster]:
    """Start the control plane and the operator, and stop them at the end."""
    with ExitStack() as stack:
        client = stack.enter_context(ControlPlane(folder / "cluster")).client
        install_crds(client)
        _grant(client)
        informers = [
            stack.enter_context(Informer(client, path))
            for path in (f"{MODELS}/multitaskmodels", "/api/v1/pods", "/apis/batch/v1/jobs")
        ]
        settings = {"MULTITASK_TRAINER_IMAGE": IMAGE, "MULTITASK_RESYNC_SECONDS": RESYNC}
        settings["MULTITASK_GRACE_SECONDS"] = "0"  # the situations of the tests stand at once
        running = stack.enter_context(run_operator(client.user("operator"), folder, **settings))
        yield OperatorCluster(client, *informers, client.user("viewer"), running.log)


def _grant(client: ClusterClient) -> None:
    """The chart's permissions: those of the operator in two parts, those of `mtm` as they are."""
    rendered = chart.rendered(release="chart")
    roles = {item["metadata"]["name"]: item["rules"] for item in rendered if item["kind"] == "ClusterRole"}
    rules = roles["chart-multitask-operator"]
    for rule in rules:
        if rule["resources"] == ["jobs"]:
            rule["verbs"].remove("create")
    jobs = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}
    given = {"operator": rules, "operator-jobs": [jobs], "viewer": roles["chart-multitask-operator-mtm"]}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    cluster_roles = [head | {"metadata": {"name": name}, "rules": each} for name, each in given.items()]
    client.kubectl("create", "--filename", "-", stdin=cluster_roles)
    for name in ("operator", "viewer"):
        client.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--user={name}")
