"""How many models one operator carries: ``python tests/benchmarks/operator_scale.py [--models 1000]``.

A real API server and the real Job controller, no nodes: every model gets its claim, account, Role, snapshot, ConfigMap
and the Job that reads its data, and then waits for a pod that no node takes. Prints the time until the status of
all models has this, how long one reconcile takes when every model changes at once, the requests while nothing changes
and every model is reconciled several times, and the operator's memory. Then some models train, beside the others: each
of their Jobs reports progress as often as a stage program does, and the status of a model is to be written every 15
seconds at most; the requests in that time are printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from devcluster import objects
from devcluster.cluster_client import ClusterClient, Object
from devcluster.control_plane import ControlPlane
from devcluster.processes import until
from integration.cluster.conftest import install_crds
from multitask_api.cluster import KIND_LABEL, MANIFESTS_KEY, MODEL_LABEL, PROGRESS_KEY, RESOLVE, RESOLVED_KEY
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import StageProgress
from multitask_api.stage_io.packing import pack_manifests
from support.graph_builders import all_done, model, resolved, task

MODELS = "/apis/multitask.dev/v1alpha1"
USER = "operator"
#: Of a stage program.
PROGRESS_SECONDS = 15.0


def resource(name: str) -> MultiTaskModel:
    """A model of three tasks."""
    tasks = [task(each) for each in ("urgency", "intent", "complaint")]
    for each in tasks:
        for split, source in each["data"].items():
            source["uri"] = f"s3://bucket/{each['name']}/{split}.jsonl"
    return model(*tasks, name=name, storage={"uri": "pvc://models/desk"})


def document(name: str, namespace: str) -> dict[str, object]:
    """The same as it is applied."""
    model_document = resource(name).to_json()
    model_document["metadata"]["namespace"] = namespace
    return model_document


class Program:
    """``mtm-operator`` as a process, as a user of its own, so that its requests can be told from others'."""

    def __init__(self, client: ClusterClient, folder: Path, resync: int) -> None:
        self._log = folder / "operator.log"
        command = [str(Path(sys.executable).with_name("mtm-operator"))]
        command += ["--kubeconfig", str(client.user(USER, ["system:masters"])), "--health-port", "0"]
        command += ["--trainer-image", "registry.example/trainer:1", "--resync-seconds", str(resync)]
        command += ["--health-address", "127.0.0.1"]
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        until("the operator serves", lambda: "health on port" in self._log.read_text(), 60)
        self._port = int(re.findall(r"health on port (\d+)", self._log.read_text())[-1])

    def health(self) -> dict[str, object]:
        """What ``/healthz`` says."""
        answer: dict[str, object] = httpx.get(f"http://127.0.0.1:{self._port}/healthz", trust_env=False).json()
        return answer

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def rest(self, seconds: float) -> None:
        """Wait until nothing is due and nobody is being served."""
        until("the operator rests", self._rests, seconds)

    def _rests(self) -> bool:
        state = self.health()
        return state["running"] == 0 and state["oldestSeconds"] == 0

    def end(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(60)


def models_with_status(rest: httpx.Client, namespaces: list[str]) -> int:
    """Models that have a status."""
    lists = (objects.get(rest, f"{MODELS}/namespaces/{each}/multitaskmodels")["items"] for each in namespaces)
    return sum("stage" in item.get("status", {}) for items in lists for item in items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--namespaces", type=int, default=10)
    parser.add_argument("--idle-seconds", type=int, default=60, help="how long nothing changes")
    parser.add_argument("--resync-seconds", type=int, default=20, help="every model is looked at again after this time")
    parser.add_argument("--training", type=int, default=50, help="how many models train in the end")
    parser.add_argument("--training-seconds", type=int, default=180, help="and for how long")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "cluster") as plane:
        idle(given, plane.client, Path(folder))
        training(given, plane.client, Path(folder))


def idle(given: argparse.Namespace, client: ClusterClient, folder: Path) -> None:
    """Print the figures, one a line."""
    install_crds(client)
    names = namespaces(given)
    with client.rest() as rest:
        for name in names:
            objects.namespace(rest, name)
            objects.claim(rest, name, "models")
        program = Program(client, folder, given.resync_seconds)
        try:
            begun = time.monotonic()
            for number in range(given.models):
                namespace = names[number % len(names)]
                objects.post(
                    rest, f"{MODELS}/namespaces/{namespace}/multitaskmodels", document(f"desk-{number}", namespace)
                )
            creation_seconds = time.monotonic() - begun
            until("every model has a status", lambda: models_with_status(rest, names) == given.models, 1800)
            show("models", given.models)
            show("seconds to create them", creation_seconds)
            show("seconds until every model has its Job and status", time.monotonic() - begun)
            program.rest(600)
            begun = time.monotonic()
            for number in range(given.models):  # another label: nothing to write, everything to reconcile
                path = f"{MODELS}/namespaces/{names[number % len(names)]}/multitaskmodels/desk-{number}"
                rest.patch(
                    path, json={"metadata": {"labels": {"look": "again"}}}, headers=objects.MERGE
                ).raise_for_status()
            program.rest(600)
            show("seconds to touch and look at every model", time.monotonic() - begun)
            show("seconds of one reconcile, the latest thousand", json.dumps(program.health()["servingSeconds"]))
            mark, before = client.audit_mark(), int(str(program.health()["served"]))
            time.sleep(given.idle_seconds)
            looks = int(str(program.health()["served"])) - before
            show(f"looks while nothing changed ({given.idle_seconds} s)", looks)
            show("an hour of resyncs at the default has so many looks", given.models * 3600 // 450)
            show_requests(client.audited(mark, USER), given.idle_seconds)
            show("operator's memory, MB", program.megabytes)
        finally:
            program.end()


def training(given: argparse.Namespace, client: ClusterClient, folder: Path) -> None:
    """Print the figures of models whose Jobs report progress, beside all the others."""
    names = namespaces(given)
    with client.rest() as rest:
        program = Program(client, folder, resync=600)
        try:
            until("every model was looked at", lambda: int(str(program.health()["served"])) >= given.models, 600)
            for number in range(given.training):
                prepare(rest, names[number % len(names)], resource(f"desk-{number}"))
            until("their Jobs are there", lambda: len(baselines(rest, names)) == 3 * given.training, 600)
            program.rest(600)
            paths = baselines(rest, names)
            show("models that train", given.training)
            show("their Jobs", len(paths))
            mark, looks = client.audit_mark(), int(str(program.health()["served"]))
            reports = report(rest, paths, given.training_seconds)
            minutes = given.training_seconds / 60
            show("reports of progress, a Job and minute", reports / len(paths) / minutes)
            show("looks in that time", int(str(program.health()["served"])) - looks)
            show("seconds of one reconcile, the latest thousand", json.dumps(program.health()["servingSeconds"]))
            written = status_writes(client.audited(mark, USER))
            gaps = [(b - a).total_seconds() for times in written.values() for a, b in pairwise(times)]
            show("writes of one model's status a minute", sum(map(len, written.values())) / given.training / minutes)
            show("least seconds between two of them", min(gaps))
            show_requests(client.audited(mark, USER), given.training_seconds)
            show("operator's memory, MB", program.megabytes)
        finally:
            program.end()


def prepare(rest: httpx.Client, namespace: str, trained: MultiTaskModel) -> None:
    """As a resolve pod that finds the data, and all results up to the baselines in storage."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    selector = f"{MODEL_LABEL}={trained.metadata.name},{KIND_LABEL}={RESOLVE}"
    (configmap,) = objects.get(rest, f"{path}?labelSelector={selector}")["items"]
    packed, _ = pack_manifests(all_done(trained, until="baseline", serve=False).values())
    change = {
        "data": {RESOLVED_KEY: resolved(trained).model_dump_json(by_alias=True)},
        "binaryData": {MANIFESTS_KEY: packed},
    }
    rest.patch(f"{path}/{configmap['metadata']['name']}", json=change, headers=objects.MERGE).raise_for_status()


def report(rest: httpx.Client, paths: list[str], seconds: float) -> int:
    """Every Job reports progress every `PROGRESS_SECONDS`, one after the other; how many reports that were."""
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        progress = StageProgress(stage="s", step=count, total=100_000, loss=1 / (1 + count), updated=time.time())
        change = {"data": {PROGRESS_KEY: progress.model_dump_json(by_alias=True)}}
        rest.patch(paths[count % len(paths)], json=change, headers=objects.MERGE).raise_for_status()
        count += 1
        time.sleep(max(0.0, begun + count * PROGRESS_SECONDS / len(paths) - time.monotonic()))
    return count


def baselines(rest: httpx.Client, names: list[str]) -> list[str]:
    """The addresses of all baselines' ConfigMaps."""
    paths = []
    for name in names:
        path = f"/api/v1/namespaces/{name}/configmaps"
        items = objects.get(rest, f"{path}?labelSelector={KIND_LABEL}=baseline")["items"]
        paths += [f"{path}/{item['metadata']['name']}" for item in items]
    return paths


def status_writes(events: list[Object]) -> dict[str, list[datetime]]:
    """Model → when its status was written."""
    writes: dict[str, list[datetime]] = {}
    for event in events:
        target = event["objectRef"]
        if event["verb"] == "patch" and target.get("subresource") == "status":
            when = datetime.fromisoformat(event["stageTimestamp"])
            writes.setdefault(f"{target['namespace']}/{target['name']}", []).append(when)
    return writes


def show_requests(events: list[Object], seconds: float) -> None:
    """What the operator asked of the API server, by the server's audit log."""
    asked = Counter(request(event) for event in events)
    watches = sum(count for what, count in asked.items() if what.startswith("watch "))
    show("requests in that time, without watches", asked.total() - watches)
    show("by verb and resource", json.dumps({what: asked[what] for what in sorted(asked) if what[:6] != "watch "}))
    show("requests a second, without watches", (asked.total() - watches) / seconds)
    show("watches that ended and were begun again", watches)


def request(event: Object) -> str:
    """``VERB RESOURCE[/SUBRESOURCE]`` of an audit event."""
    target = event["objectRef"]
    return f"{event['verb']} {'/'.join(filter(None, (target['resource'], target.get('subresource'))))}"


def namespaces(given: argparse.Namespace) -> list[str]:
    """Where the models are, in turn."""
    return [f"scale-{number}" for number in range(given.namespaces)]


def show(label: str, value: object) -> None:
    """One line, at once: a run takes minutes."""
    sys.stdout.write(f"{label}: {f'{value:,.1f}' if isinstance(value, float) else value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
