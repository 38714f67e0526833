"""A namespace of the cluster as its users see it, through kubectl, the REST API and ``mtm``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.processes import until
from support.small_suite import MTM, environment

Map = dict[str, Any]
CHILDREN = ("jobs", "pods", "configmaps", "services", "serviceaccounts", "roles", "rolebindings")


@dataclass(frozen=True)
class Namespace:
    """The namespace ``name``."""

    client: ClusterClient
    rest: httpx.Client
    name: str

    def apply(self, *what: str, stdin: Map | list[Map] | None = None) -> None:
        """``kubectl apply --server-side``, of files or of objects."""
        self.client.kubectl("apply", "--server-side", "--namespace", self.name, *(what or ("-f", "-")), stdin=stdin)

    def model(self, name: str) -> Map:
        """The MultiTaskModel."""
        return objects.get(self.rest, self._path(name))

    def exists(self, name: str) -> bool:
        """Whether there is a MultiTaskModel of that name."""
        return self.rest.get(self._path(name)).status_code != 404

    def wait_until_trained(self, name: str, report: Callable[[str], None], seconds: float) -> None:
        """Wait until the model is trained for its current spec; ``report`` gets every new stage and progress.

        AssertionError, with the output of `mtm explain`, if the training fails; TimeoutError.
        """
        reported: set[str] = set()

        def trained() -> bool:
            model = self.model(name)
            status = model.get("status", {})
            generation = model["metadata"]["generation"]
            current = {
                each["type"]: each["status"] == "True"
                for each in status.get("conditions", ())
                if each.get("observedGeneration") == generation
            }
            line = f"{status.get('stage', '')} {status.get('progress', '')}".strip()
            if line and line not in reported:
                reported.add(line)
                report(line)
            assert not current.get("Failed"), self.mtm("explain", name)
            return current.get("Trained", False)

        until(f"{name} is trained", trained, seconds)

    def jobs(self, model: str) -> list[Map]:
        """The stage Jobs of a model, the oldest first."""
        children = self._children("jobs", model)
        return sorted(children, key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))

    def stages(self, model: str) -> list[str]:
        """The stages of all Jobs of a model, unordered; a stage that two Jobs ran is listed twice."""
        return [stage for job in self.jobs(model) for stage in stages_of(job)]

    def job_of(self, model: str, stage: str) -> Map | None:
        """The newest Job of a stage."""
        of_it = [job for job in self.jobs(model) if stage in stages_of(job)]
        return of_it[-1] if of_it else None

    def pods(self, job: Map) -> list[Map]:
        """A Job's pods, the oldest first."""
        selector = f"batch.kubernetes.io/job-name={job['metadata']['name']}"
        path = f"/api/v1/namespaces/{self.name}/pods?labelSelector={selector}"
        return sorted(objects.get(self.rest, path)["items"], key=lambda pod: pod["metadata"]["creationTimestamp"])

    def log(self, pod: Map) -> str:
        """The log of a pod; empty if there is none."""
        path = f"/api/v1/namespaces/{self.name}/pods/{pod['metadata']['name']}/log"
        answer = self.rest.get(path)
        return answer.text if answer.is_success else ""

    def remaining_children(self, model: str) -> list[str]:
        """``RESOURCE/NAME`` of everything that belongs to a model."""
        return [f"{kind}/{item['metadata']['name']}" for kind in CHILDREN for item in self._children(kind, model)]

    def mtm(self, *arguments: str) -> str:
        """What `mtm` prints; AssertionError if it fails."""
        options = ["--namespace", self.name, "--kubeconfig", str(self.client.admin)]
        done = subprocess.run(
            [*MTM, *arguments, *options], capture_output=True, text=True, env=environment(), check=False
        )
        assert done.returncode == 0, f"mtm {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def report(self, model: str, folder: Path) -> Map:
        """report.json as `mtm report` makes it."""
        self.mtm("report", model, "--to", str(folder))
        document: Map = json.loads((folder / "report.json").read_text("utf-8"))
        return document

    def _path(self, name: str) -> str:
        return f"/apis/multitask.dev/v1alpha1/namespaces/{self.name}/multitaskmodels/{name}"

    def _children(self, kind: str, model: str) -> list[Mapping[str, Any]]:
        groups = {"jobs": "apis/batch/v1", "roles": _RBAC, "rolebindings": _RBAC}
        path = f"/{groups.get(kind, 'api/v1')}/namespaces/{self.name}/{kind}?labelSelector=multitask.dev/model={model}"
        items: list[Mapping[str, Any]] = objects.get(self.rest, path)["items"]
        return items


_RBAC = "apis/rbac.authorization.k8s.io/v1"


def stages_of(job: Map) -> list[str]:
    """The stages that a Job runs; none of one that resolves."""
    stages = job["metadata"].get("annotations", {}).get("multitask.dev/stage")
    return stages.split(",") if stages else []
