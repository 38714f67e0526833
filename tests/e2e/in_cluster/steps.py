"""The steps of the end-to-end run: each raises AssertionError or TimeoutError if it fails."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from devcluster import binaries, objects
from devcluster.cluster_client import ClusterClient
from devcluster.one_node import OneNode
from devcluster.processes import until
from e2e.in_cluster.namespace import Namespace, stages_of
from multitask_api.cluster import model_folder, qualified_name
from multitask_api.stages import artifact_filename

Map = dict[str, Any]
Report = Callable[[str], None]

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "multitask-operator"
OPERATOR_NAMESPACE = "multitask"
SMALL_SECONDS = 900
"""Within which each step of the small suite has to come to its end."""
_SHOWN = 10_000
"""Characters of what one command prints, in the report of a failed step."""
#: The stages that run again for a new task that saturates early.
STAGES_OF_A_NEW_TASK = {
    "prepare/temper",
    "baseline/temper/seed-17",
    "filter",
    "mixture/classification",
    "bundle",
    "evaluate/classification",
    "export",
}


def chart_values(plan: Mapping[str, Any]) -> Map:
    """Values of the chart for the images of this checkout, on a node of two cores."""
    values: Map = {"gateway": {"resources": {"requests": {"cpu": "50m"}}, "labels": {"enabled": True}}}
    for name, image in plan["chart"].items():
        repository, _, tag = image.rpartition(":")
        values[name] = {"repository": repository, "tag": tag}
        if name != "servingImage":  # pulled like the trainer's
            values[name]["pullPolicy"] = "Never"
    return values


def install_or_upgrade(client: ClusterClient, chart: Path, values: Map) -> None:
    """``helm upgrade --install``, and wait until operator and gateways are ready."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        options = ("--install", "--create-namespace", "--wait", "--values", file.name)
        helm(client, "upgrade", "multitask", str(chart), *options)


def helm(client: ClusterClient, *arguments: str) -> str:
    """``helm ARGUMENTS`` in the operator's namespace, within five minutes; what it prints."""
    argv = [str(binaries.path("helm")), "--kubeconfig", str(client.admin), *arguments]
    argv += ["--namespace", OPERATOR_NAMESPACE, "--timeout", "5m"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_until_baselines_run(namespace: Namespace, model: str, seconds: float) -> None:
    """Wait until the Job of a baseline has a pod at work."""

    def run() -> bool:
        return any(
            job["status"].get("active") and any(stage.startswith("baseline/") for stage in stages_of(job))
            for job in namespace.jobs(model)
        )

    until("a baseline runs", run, seconds)


def assert_same_figures(local: Path, results: Map) -> str:
    """The report of the cluster has the figures of the report ``local`` of the same file on this machine."""
    expected = json.loads(local.read_text("utf-8"))
    for key in ("model", "revision", "qualified", "confirmed", "total", "groups", "tasks"):
        assert results[key] == expected[key], (
            f"report.{key} is {results[key]} in the cluster and {expected[key]} locally"
        )
    stages = [{stage["name"]: stage["digest"] for stage in report["stages"]} for report in (results, expected)]
    assert stages[0].items() <= stages[1].items(), "stages have other digests in the cluster"
    return f"result {results['revision']}, {len(results['tasks'])} tasks, {len(stages[0])} stages"


def assert_each_stage_ran_once(namespace: Namespace, model: str) -> int:
    """No stage has run twice, and no pod has failed; the number of stages."""
    stages = namespace.stages(model)
    twice = sorted({stage for stage in stages if stages.count(stage) > 1})
    assert not twice, f"ran twice: {twice}"
    failed = [job["metadata"]["name"] for job in namespace.jobs(model) if job["status"].get("failed")]
    assert not failed, f"failed pods: {failed}"
    return len(stages)


def assert_only_changes_ran(namespace: Namespace, model: str, before: set[str]) -> str:
    """The Jobs that are not in ``before`` are exactly those that a new task needs."""
    new = [job for job in namespace.jobs(model) if job["metadata"]["name"] not in before]
    ran = {stage for job in new for stage in stages_of(job)}
    assert ran == STAGES_OF_A_NEW_TASK, f"ran: {sorted(ran)}"
    return ", ".join(sorted(ran))


def kill_after_checkpoint(
    node: OneNode, namespace: Namespace, model: str, stage: str, storage: Path, seconds: float
) -> None:
    """Kill the trainer's container as soon as the stage that runs has a checkpoint."""
    running: list[Map] = []

    def has_checkpoint() -> bool:
        job = namespace.job_of(model, stage)
        if job is None or not job["status"].get("active"):
            return False
        running[:] = [job]
        own = model_folder(qualified_name(namespace.name, model))
        scratch = storage / "work" / own / artifact_filename((stage, digest_of(job, stage)))
        return (scratch / "checkpoint" / "checkpoint.pt").exists()

    until(f"{stage} runs and has a checkpoint", has_checkpoint, seconds)
    (pod,) = namespace.pods(running[0])
    kill_container(node, pod)


def kill_container(node: OneNode, pod: Map) -> None:
    """Kill the one container of a pod."""
    (status,) = pod["status"]["containerStatuses"]
    node.kill(status["containerID"].removeprefix("containerd://"))


def assert_resumed(namespace: Namespace, model: str, stage: str) -> str:
    """The Job of the stage has a second pod, which resumed from the checkpoint of the first."""
    job = namespace.job_of(model, stage)
    assert job is not None
    assert job["status"].get("failed") == 1, f"{stage} was not killed in mid-stage: {job['status']}"
    first, second = namespace.pods(job)
    (ended,) = first["status"]["containerStatuses"]
    assert ended["state"]["terminated"]["exitCode"] == 137, ended
    resumed = [line for line in namespace.log(second).splitlines() if "resuming after step" in line]
    assert resumed, namespace.log(second)
    return resumed[0].strip()


def assert_ran_on_two_nodes(namespace: Namespace, model: str) -> str:
    """Every training stage was an Indexed Job of two pods, both of which trained."""
    training = [job for job in namespace.jobs(model) if job["spec"].get("completionMode") == "Indexed"]
    kinds = {job["metadata"]["labels"]["multitask.dev/kind"] for job in training}
    assert {"base", "baseline", "mixture"} <= kinds, kinds
    for job in training:
        pods = namespace.pods(job)
        assert [pod["status"]["phase"] for pod in pods] == ["Succeeded", "Succeeded"], pods
    return f"{len(training)} stages in two pods each"


def delete(namespace: Namespace, model: str, seconds: float) -> None:
    """Delete a model, and wait until nothing that belonged to it is left."""
    assert namespace.remaining_children(model)
    namespace.client.kubectl("delete", "mtm", model, "--namespace", namespace.name, "--wait=false")
    until(f"{model} is gone", lambda: not namespace.exists(model), seconds)
    until(f"nothing of {model} is left", lambda: not namespace.remaining_children(model), seconds)


def describe_state(client: ClusterClient, namespace: Namespace) -> str:
    """Objects, events and logs, for the report of a failed step."""
    operator = ("--namespace", OPERATOR_NAMESPACE)
    operator_logs = ("logs", *operator, "--selector", f"app.kubernetes.io/name={CHART.name}", "--prefix")
    parts = []
    for arguments in (
        ("get", "mtm", "--all-namespaces"),
        ("get", "jobs,deployments,pods,pvc", "--namespace", namespace.name, "--output", "wide"),
        ("get", "taskroutes", "--namespace", namespace.name, "--output", "yaml"),
        ("logs", "--namespace", namespace.name, "--selector", "multitask.dev/kind=serving", "--tail", "40"),
        ("get", "events", "--namespace", namespace.name, "--sort-by", ".lastTimestamp"),
        ("describe", "mtm", "--namespace", namespace.name),
        ("describe", "nodes"),  # conditions and taints: a full disk evicts pods, and lets none start
        ("get", "deployments,replicasets,pods", *operator, "--output", "wide"),
        ("describe", "pods", *operator),
        ("get", "events", *operator, "--sort-by", ".lastTimestamp"),
        (*operator_logs, "--tail", "40"),
        (*operator_logs, "--tail", "40", "--previous"),
        ("logs", *operator, "--selector", "app.kubernetes.io/name=multitask-gateway", "--prefix"),
    ):
        done = client.kubectl(*arguments, check=False)
        parts.append(f"$ kubectl {' '.join(arguments)}\n{(done.stdout + done.stderr)[-_SHOWN:]}")
    pods = objects.get(namespace.rest, f"/api/v1/namespaces/{namespace.name}/pods")["items"]
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    parts += [f"log of {pod['metadata']['name']}:\n{namespace.log(pod)[-3000:]}" for pod in failed]
    return "\n\n".join(parts)


def digest_of(job: Map, stage: str) -> str:
    """The digest of one stage that a Job runs."""
    stages, digests = (job["metadata"]["annotations"][f"multitask.dev/{key}"].split(",") for key in ("stage", "digest"))
    results: str = digests[stages.index(stage)]
    return results
