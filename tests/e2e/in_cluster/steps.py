"""What the end-to-end run does, a function a step: each raises AssertionError, or TimeoutError, if it is not so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devcluster import binaries, objects
from devcluster.cluster_client import ClusterClient
from devcluster.one_node import OneNode
from devcluster.processes import until
from e2e.in_cluster.team import Team, stages_of
from multitask_api.cluster import model_folder, qualified_name
from multitask_api.stages import artifact_filename

Map = dict[str, Any]
Say = Callable[[str], None]

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "multitask-operator"
OPERATORS = "multitask"
#: What a task that saturates early makes necessary, and nothing else.
OF_A_NEW_TASK = {
    "prepare/temper",
    "baseline/temper/seed-17",
    "filter",
    "mixture/classification",
    "bundle",
    "evaluate/classification",
    "evaluate/generation",
    "export",
}


def install(access: ClusterClient, operator: str, trainer: str) -> None:
    """``helm install``, and wait until the operator is ready; images as REPOSITORY:TAG."""
    values = []
    for name, image in (("image", operator), ("trainerImage", trainer)):
        repository, _, tag = image.rpartition(":")
        values += ["--set-string", f"{name}.repository={repository},{name}.tag={tag},{name}.pullPolicy=Never"]
    argv = [str(binaries.path("helm")), "--kubeconfig", str(access.admin), "install", "multitask", str(CHART)]
    argv += ["--namespace", OPERATORS, "--create-namespace", "--wait", "--timeout", "5m"]
    done = subprocess.run([*argv, *values], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def same_figures(local: Path, found: Map) -> str:
    """The cluster's report says what that of the same file on this machine says."""
    expected = json.loads(local.read_text("utf-8"))
    for key in ("model", "revision", "qualified", "confirmed", "total", "groups", "tasks"):
        assert found[key] == expected[key], f"report.{key} is {found[key]} in the cluster and {expected[key]} locally"
    stages = [{stage["name"]: stage["digest"] for stage in report["stages"]} for report in (found, expected)]
    assert stages[0].items() <= stages[1].items(), "stages have other digests in the cluster"
    return f"revision {found['revision']}, {len(found['tasks'])} tasks, {len(stages[0])} stages"


def each_stage_once(team: Team, model: str) -> int:
    """No stage has run twice, and no Job has failed; how many there were."""
    stages = team.stages(model)
    twice = sorted({stage for stage in stages if stages.count(stage) > 1})
    assert not twice, f"ran twice: {twice}"
    failed = [job["metadata"]["name"] for job in team.jobs(model) if job["status"].get("failed")]
    assert not failed, f"failed pods: {failed}"
    return len(stages)


def only_what_changed(team: Team, model: str, before: set[str]) -> str:
    """The Jobs that came after ``before`` are those that a new task makes necessary."""
    new = [job for job in team.jobs(model) if job["metadata"]["name"] not in before]
    ran = {stage for job in new for stage in stages_of(job)}
    assert ran == OF_A_NEW_TASK, f"ran: {sorted(ran)}"
    return ", ".join(sorted(ran))


def kill_in_mid_stage(node: OneNode, team: Team, model: str, stage: str, storage: Path, seconds: float) -> None:
    """Kill the trainer's container as soon as the stage that runs has a checkpoint."""
    running: list[Map] = []

    def has_checkpoint() -> bool:
        job = team.job_of(model, stage)
        if job is None or not job["status"].get("active"):
            return False
        running[:] = [job]
        own = model_folder(qualified_name(team.name, model))
        scratch = storage / "work" / own / artifact_filename((stage, digest_of(job, stage)))
        return (scratch / "checkpoint" / "checkpoint.pt").exists()

    until(f"{stage} runs and has a checkpoint", has_checkpoint, seconds)
    (pod,) = team.pods(running[0])
    (status,) = pod["status"]["containerStatuses"]
    node.kill(status["containerID"].removeprefix("containerd://"))


def has_resumed(team: Team, model: str, stage: str) -> str:
    """The stage's Job took a second pod, which went on from the checkpoint of the first."""
    job = team.job_of(model, stage)
    assert job is not None
    assert job["status"].get("failed") == 1, f"{stage} was not killed in mid-stage: {job['status']}"
    first, second = team.pods(job)
    (ended,) = first["status"]["containerStatuses"]
    assert ended["state"]["terminated"]["exitCode"] == 137, ended
    resumed = [line for line in team.log(second).splitlines() if "resuming after step" in line]
    assert resumed, team.log(second)
    return resumed[0].strip()


def ran_on_two_nodes(team: Team, model: str) -> str:
    """Every training stage was an Indexed Job of two pods, both of which trained."""
    training = [job for job in team.jobs(model) if job["spec"].get("completionMode") == "Indexed"]
    kinds = {job["metadata"]["labels"]["multitask.dev/kind"] for job in training}
    assert {"base", "baseline", "mixture"} <= kinds, kinds
    for job in training:
        pods = team.pods(job)
        assert [pod["status"]["phase"] for pod in pods] == ["Succeeded", "Succeeded"], pods
    return f"{len(training)} stages in two pods each"


def delete(team: Team, model: str, seconds: float) -> None:
    """Delete a model, and wait until nothing that belonged to it is left."""
    assert team.left(model)
    team.access.kubectl("delete", "mtm", model, "--namespace", team.name, "--wait=false")
    until(f"{model} is gone", lambda: not team.exists(model), seconds)
    until(f"nothing of {model} is left", lambda: not team.left(model), seconds)


def picture(access: ClusterClient, team: Team) -> str:
    """What there is when a step has failed."""
    parts = []
    for arguments in (
        ("get", "mtm", "--all-namespaces"),
        ("get", "jobs,pods,pvc", "--namespace", team.name, "--output", "wide"),
        ("get", "events", "--namespace", team.name, "--sort-by", ".lastTimestamp"),
        ("describe", "mtm", "--namespace", team.name),
        ("get", "pods", "--namespace", OPERATORS, "--output", "wide"),
        ("logs", "--namespace", OPERATORS, "deployment/multitask-multitask-operator", "--tail", "40"),
    ):
        done = access.kubectl(*arguments, check=False)
        parts.append(f"$ kubectl {' '.join(arguments)}\n{(done.out + done.err)[-6000:]}")
    pods = objects.get(team.rest, f"/api/v1/namespaces/{team.name}/pods")["items"]
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    parts += [f"log of {pod['metadata']['name']}:\n{team.log(pod)[-3000:]}" for pod in failed]
    return "\n\n".join(parts)


def digest_of(job: Map, stage: str) -> str:
    """The digest of one stage that a Job runs."""
    stages, digests = (job["metadata"]["annotations"][f"multitask.dev/{key}"].split(",") for key in ("stage", "digest"))
    found: str = digests[stages.index(stage)]
    return found
