"""The model.yaml of ``support.small_suite`` for a cluster and for this machine: its URIs name a PVC."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support import small_suite

Map = dict[str, Any]
PVC = "desk"
FAULTY_SERVER = Path(__file__).parents[2] / "support" / "faulty_server"


def document(pod_template: Mapping[str, Any], server_pod_template: Mapping[str, Any]) -> Map:
    """The suite's resource, its artifacts kept after deletion, served by two pods."""
    model = small_suite.document()
    model["spec"]["storage"] = {"uri": f"pvc://{PVC}/artifacts"}
    model["spec"]["tasks"] = [_with_data_in_pvc(each) for each in model["spec"]["tasks"]]
    # Two stages fit a node of two cores, beside operator, gateways and the servers of two revisions.
    half = {"requests": {"cpu": "600m", "memory": "1Gi"}}
    model["spec"]["training"] |= {"podTemplate": dict(pod_template), "maxParallelJobs": 2, "resources": half}
    model["spec"]["serving"] = {
        "replicas": 2,
        "resources": {"requests": {"cpu": "50m", "memory": "1Gi"}},
        "rollout": {
            "steps": [25, 100],
            "minRequests": 10,
            "maxStepSeconds": 30,
            "analysis": {"interval": 10, "maxLatencyRatio": 30},
        },
    }
    if server_pod_template:  # server-side apply cannot go from fields in it back to an empty one
        model["spec"]["serving"]["podTemplate"] = dict(server_pod_template)
    return model


def with_another_task(model: Map, folder: Path) -> Map:
    """``model`` with one more task, its data below ``folder``; it saturates early, so that stage 2 does not change."""
    small_suite.write_data(folder / "data", "temper", small_suite.mood_rows(seed=99), small_suite.FEW_ROWS)
    task = _with_data_in_pvc(small_suite.task("temper", "Classification", labels=["glad", "cross"]))
    return {**model, "spec": {**model["spec"], "tasks": [*model["spec"]["tasks"], task]}}


def with_faulty_servers(model: Map, faults: Mapping[str, Map], *, latency_ratio: float | None = None) -> list[Map]:
    """``model`` with servers that have ``faults`` under live traffic only, and the ConfigMap with what makes them so.

    See ``support.faulty_server``. ``latency_ratio``: so slow may they be; None: as before.
    """
    files = {path.name: path.read_text("utf-8") for path in sorted(FAULTY_SERVER.glob("*.py"))}
    configmap = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fault"}, "data": files}
    faulty = copy.deepcopy(model)
    if latency_ratio is not None:
        faulty["spec"]["serving"]["rollout"]["analysis"]["maxLatencyRatio"] = latency_ratio
    template = faulty["spec"]["serving"].setdefault("podTemplate", {}).setdefault("spec", {})
    template.setdefault("volumes", []).append({"name": "fault", "configMap": {"name": "fault"}})
    containers = template.setdefault("containers", [])
    server = next((each for each in containers if each["name"] == "server"), None)
    if server is None:
        containers.append(server := {"name": "server"})
    server.setdefault("volumeMounts", []).append({"name": "fault", "mountPath": "/fault", "readOnly": True})
    variables = {each["name"]: each["value"] for each in server.get("env", ())}
    variables["PYTHONPATH"] = ":".join(filter(None, ("/fault", variables.get("PYTHONPATH"))))
    variables["FAULTY_ANSWERS"] = json.dumps(faults)
    server["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    return [configmap, faulty]


def on_two_nodes(model: Map) -> Map:
    """A smaller model: two tasks, every training stage in two pods, artifacts removed with it."""
    spec = model["spec"]
    return {
        **model,
        "metadata": {"name": "pair"},
        "spec": {
            **spec,
            "storage": {"uri": f"pvc://{PVC}/pair", "retain": False},
            "tasks": spec["tasks"][:2],
            "pretraining": {"tasksText": True, "maxSteps": 30},
            "stages": {
                "baseline": {"maxSteps": 60},
                "highResource": {"enabled": False},
                "mixture": {"maxSteps": 60, "minSteps": 60},
            },
            "training": {**spec["training"], "minSteps": 40, "nodes": 2, "maxParallelJobs": 1},
            "serving": {**spec["serving"], "replicas": 0},
        },
    }


def _with_data_in_pvc(task: Map) -> Map:
    data = {split: {"uri": f"pvc://{PVC}/{source['uri']}"} for split, source in task["data"].items()}
    return {**task, "data": data}
