"""Steps of the end-to-end run for what is served: each raises AssertionError or TimeoutError if it fails."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.one_node import OneNode
from devcluster.processes import until
from e2e.in_cluster.namespace import Namespace
from e2e.in_cluster.steps import OPERATOR_NAMESPACE, helm, kill_container
from multitask_api.serving_io.revision import REVISION_KEY, Revision
from multitask_operator.objects.serving.names import serving_name

Map = dict[str, Any]

GATEWAY = "multitask-gateway"
GATEWAY_PODS = f"app.kubernetes.io/name={GATEWAY}"
"""Their label selector."""
HOST = f"{GATEWAY}.{OPERATOR_NAMESPACE}.svc"
PORT = 8081
OVER = ("RolledOut", "TasksExcluded")
"""Phases of a rollout that has ended with the newest revision."""


def helm_test(client: ClusterClient) -> str:
    """``helm test`` passes; what its pod says."""
    return helm(client, "test", "multitask", "--logs").strip().splitlines()[-1]


def ask_with_grpcurl(namespace: Namespace, folder: Path, task: str) -> str:
    """``grpcurl`` finds the service by reflection at the gateway's Service, and gets an answer; its label or text."""
    answer = _ask(namespace, folder, task)
    return f"{answer.get('label') or answer['text']!r} of revision {answer['revision']}"


def label_of(namespace: Namespace, folder: Path, task: str) -> str:
    """The label that the gateway answers now."""
    return str(_ask(namespace, folder, task)["label"])


def _ask(namespace: Namespace, folder: Path, task: str) -> Map:
    ca = folder / "ca.crt"
    ca.write_bytes(_secret(namespace, f"{GATEWAY}-tls", "ca.crt"))
    key = _secret(namespace, f"{GATEWAY}-key", "api-key").decode().strip()
    service = objects.get(namespace.rest, f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/services/{GATEWAY}")
    request = {"task": task, "fields": {"text": "please, about my invoice, soon"}}
    argv = [os.environ["GRPCURL"], "-cacert", str(ca), "-authority", HOST, "-H", f"authorization: Bearer {key}"]
    argv += ["-d", json.dumps(request), f"{service['spec']['clusterIP']}:{PORT}", "multitask.v1.TaskGateway/Predict"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer: Map = json.loads(done.stdout)
    return answer


def wait_until_served(namespace: Namespace, model: str, report: Callable[[str], None], seconds: float) -> str:
    """Wait until the newest revision answers and nothing moves; how the tasks are served. TimeoutError with why not."""
    reported: set[str] = set()
    conditions: list[Map] = []

    def is_served() -> bool:
        found = namespace.model(model)
        status = found.get("status", {})
        conditions[:] = status.get("conditions", ())
        serving = status.get("serving", {})
        for line in (each["message"] for each in conditions if each["type"] == "Reconciling"):
            if line not in reported:
                reported.add(line)
                report(line)
        ready = next((each for each in conditions if each["type"] == "Ready"), {})
        return (
            ready.get("status") == "True"
            and ready.get("observedGeneration") == found["metadata"]["generation"]
            and serving.get("phase") in OVER
            and trained_of(namespace, model, serving.get("revision")) == status.get("revision")
        )

    try:
        until(f"{model} is served", is_served, seconds)
    except TimeoutError as error:
        shown = "\n".join(f"{each['type']} {each['status']} {each['reason']}: {each['message']}" for each in conditions)
        raise TimeoutError(f"{error}\n{shown}") from error
    status = namespace.model(model)["status"]
    return f"{status['serving']['phase']}, revision {status['serving']['revision']} of result {status['revision']}"


def trained_of(namespace: Namespace, model: str, revision: str | None) -> str | None:
    """The trained revision that the servers of ``revision`` have; None if there is no record of it."""
    record = record_of(namespace, model, revision or "")
    return record.trained if record is not None else None


def record_of(namespace: Namespace, model: str, revision: str) -> Revision | None:
    """The record of a revision; None if there is none."""
    path = f"/api/v1/namespaces/{namespace.name}/configmaps/{serving_name(model, revision)}"
    found = namespace.rest.get(path)
    return Revision.model_validate_json(found.json()["data"][REVISION_KEY]) if found.is_success else None


def gateway_uids(client: ClusterClient) -> set[str]:
    """UIDs of the pods of the gateways, those that end too."""
    pods = client.get("pods", "--namespace", OPERATOR_NAMESPACE, "--selector", GATEWAY_PODS)["items"]
    return {pod["metadata"]["uid"] for pod in pods}


def wait_until_replaced(client: ClusterClient, gateways: set[str], seconds: float) -> None:
    """Wait until none of these gateways is left."""
    until("the old gateways have ended", lambda: not gateways & gateway_uids(client), seconds)


def kill_server(node: OneNode, namespace: Namespace, model: str, seconds: float) -> None:
    """Kill the container of a server; wait until it answers again."""
    pod = server_pods(namespace, model)[0]
    kill_container(node, pod)
    name = pod["metadata"]["name"]

    def is_back() -> bool:
        (now,) = (each for each in server_pods(namespace, model) if each["metadata"]["name"] == name)
        (container,) = now["status"]["containerStatuses"]
        return bool(container["restartCount"] and container["ready"])

    until(f"{name} answers again", is_back, seconds)


def evict_server(namespace: Namespace, model: str, seconds: float) -> None:
    """Evict a server's pod, as a drain of its node does; wait until another one answers."""
    pods = server_pods(namespace, model)
    name = pods[0]["metadata"]["name"]
    path = f"/api/v1/namespaces/{namespace.name}/pods/{name}/eviction"
    objects.post(namespace.rest, path, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}})

    def is_replaced() -> bool:
        now = server_pods(namespace, model)
        ready = [each for each in now if _is_ready(each)]
        return name not in {each["metadata"]["name"] for each in now} and len(ready) == len(pods)

    until(f"{name} is replaced", is_replaced, seconds)


def server_pods(namespace: Namespace, model: str) -> list[Map]:
    """The server pods of a model."""
    selector = f"multitask.dev/model={model},multitask.dev/kind=serving"
    pods: list[Map] = namespace.client.get("pods", "--namespace", namespace.name, "--selector", selector)["items"]
    return pods


def kill_operator(node: OneNode, client: ClusterClient) -> None:
    """Kill the operator when it is ready, and have another pod at once instead of the same one after a while."""
    arguments = ("--namespace", OPERATOR_NAMESPACE)
    ready: list[Map] = []

    def is_ready() -> bool:
        pods = client.get("pods", *arguments, "--selector", "app.kubernetes.io/name=multitask-operator")["items"]
        ready[:] = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and _is_ready(pod)]
        return bool(ready)

    until("the operator is ready", is_ready, 120)
    for pod in ready:
        kill_container(node, pod)
        client.kubectl("delete", "pod", pod["metadata"]["name"], *arguments, "--wait=false")


def wait_until_rolled_back(namespace: Namespace, model: str, task: str, seconds: float) -> str:
    """Wait until a rollout is over in which ``task`` went back to its old revision; why it did.

    Other tasks may have gone back with it. The rejected revision has no traffic of the task then; the route's status
    says why, and so does an Event.
    """
    routes: list[Map] = []

    def is_over() -> bool:
        routes[:] = [namespace.client.get("taskroutes", model, "--namespace", namespace.name)]
        state, found = rollout_of(routes[0]), namespace.model(model)
        record = record_of(namespace, model, state.get("revision", ""))
        if record is None or record.generation != found["metadata"]["generation"]:
            return False  # this is the rollout before
        rows = {row["name"]: row for row in state.get("tasks", ())}
        serving = found["status"]["serving"]
        return rows.get(task, {}).get("phase") == "Failed" and serving["phase"] in (*OVER, "RevisionRejected")

    try:
        until(f"{task} is back on its old revision, and the rollout is over", is_over, seconds)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{json.dumps(routes)}\n{namespace.mtm('status', model)}") from error
    state = rollout_of(routes[0])
    row = next(row for row in state["tasks"] if row["name"] == task)
    served = next(each for each in routes[0]["spec"]["tasks"] if each["name"] == task)
    used = {each["revision"] for each in served["backends"] if each["weight"]}
    assert used == {state["stable"]}, served
    events = namespace.client.get("events", "--namespace", namespace.name)["items"]
    reasons = {event["reason"] for event in events if event["involvedObject"]["name"] == model}
    assert reasons & {"TaskRolledBack", "AnalysisFailed"}, reasons
    return f"{task}: {row['message']}"


def assert_not_tried_again(namespace: Namespace, model: str, seconds: float) -> None:
    """For ``seconds`` the table of routes stays as it is."""
    first = namespace.client.get("taskroutes", model, "--namespace", namespace.name)["spec"]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert namespace.client.get("taskroutes", model, "--namespace", namespace.name)["spec"] == first
        time.sleep(2)


def rollout_of(route: Map) -> Map:
    """The state of the rollout in a TaskRoute."""
    state: Map = route.get("status", {}).get("rollout", {})
    return state


def roll_back_and_forth(namespace: Namespace, model: str, seconds: float) -> str:
    """`mtm rollback` gives all traffic to the earlier revision, ``--undo`` gives it back; the two revisions."""
    newest = namespace.model(model)["status"]["serving"]["revision"]
    namespace.mtm("rollback", model)
    until("the earlier revision answers", lambda: answering(namespace, model) not in (None, newest), seconds)
    earlier = answering(namespace, model)
    namespace.mtm("rollback", model, "--undo")
    until("the newest revision answers again", lambda: answering(namespace, model) == newest, seconds)
    return f"{newest} → {earlier} → {newest}"


def answering(namespace: Namespace, model: str) -> str | None:
    """The revision that has all traffic of all tasks; None: there are two."""
    tasks = namespace.client.get("taskroutes", model, "--namespace", namespace.name)["spec"]["tasks"]
    used = {each["revision"] for task in tasks for each in task["backends"] if each["weight"]}
    return used.pop() if len(used) == 1 else None


def wait_until_old_servers_are_gone(namespace: Namespace, model: str, replicas: int, seconds: float) -> None:
    """Wait until only the pods of one revision are left."""
    until("the old servers are gone", lambda: len(server_pods(namespace, model)) == replicas, seconds)


def _is_ready(pod: Map) -> bool:
    containers = pod["status"].get("containerStatuses", ())
    return bool(containers) and all(container["ready"] for container in containers)


def _secret(namespace: Namespace, name: str, key: str) -> bytes:
    secret = objects.get(namespace.rest, f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets/{name}")
    return base64.b64decode(secret["data"][key])
