"""The largest model on a real API server: what the operator writes about it is stored, and how large that is."""

from __future__ import annotations

import asyncio
import json
import time

from devcluster import objects
from devcluster.processes import until
from multitask_api.cluster import KIND_LABEL, MANIFESTS_KEY, MODEL_LABEL, PROGRESS_KEY
from multitask_api.stage_io.manifest import StageProgress
from multitask_api.stage_io.packing import pack_manifests
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_operator.controller import Controller, NamespacedName
from multitask_operator.reconciler import reconcile
from multitask_operator.settings import Settings
from support.budgets import ANNOTATION_BYTES, STAGE_ROWS, STATUS_BYTES, largest
from support.cluster.fake_pods import FakePods
from support.graph_builders import all_done, model

SETTINGS = Settings(trainer_image="registry.example/trainer:1")
CHILDREN = "jobs,pods,configmaps,serviceaccounts,roles,rolebindings"
JOBS = 64


def the_model():
    """As many tasks and characters of names as may be, and about as many labels as the server's store takes.

    It keeps every label twice, because it remembers who set it, and refuses objects of more than 1.5 MiB.
    """
    tasks = largest([f"{index:015d}" for index in range(200)])
    for each in tasks:
        each["data"] = {split: {"uri": f"s3://bucket/{each['name']}/{split}.jsonl"} for split in each["data"]}
    training = {"maxParallelJobs": JOBS, "gpusPerNode": 0}
    return model(*tasks, storage={"uri": "pvc://models/desk"}, filtering={"strategy": "Manual"}, training=training)


def reconciled(cluster, namespace, later):
    """Reconcile until nothing is written; the status as the server stores it, and its bytes.

    ``later``: seconds by which the operator's clock is ahead.
    """

    async def serve():
        async with Client(await connect(cluster.admin)) as client:
            controller = Controller(client, SETTINGS, reconcile, clock=lambda: time.time() + later)
            while True:
                mark = cluster.audit_mark()
                await controller.reconcile(NamespacedName(namespace, "desk"))
                if not [line for line in cluster.writes(mark, "admin") if f" {namespace}/" in line]:
                    return

    asyncio.run(serve())
    with cluster.rest() as rest:
        text = rest.get(f"/apis/multitask.dev/v1alpha1/namespaces/{namespace}/multitaskmodels/desk").text
    begin = text.rindex('"status":{') + len('"status":')
    status, end = json.JSONDecoder().raw_decode(text, begin)
    return status, len(text[begin:end].encode())


def assert_it_fits(cluster, namespace, stage, later=0):
    """The status and every object, once the operator has done what there is to do."""
    status, size = reconciled(cluster, namespace, later)
    assert size <= STATUS_BYTES
    assert len(status["stages"]) <= STAGE_ROWS
    assert status["stage"] == stage
    for item in cluster.get(CHILDREN, "--namespace", namespace, "--selector", MODEL_LABEL)["items"]:
        annotations = item["metadata"].get("annotations", {})
        assert len(json.dumps(annotations).encode()) <= ANNOTATION_BYTES, item["metadata"]["name"]
    return status


def of_kind(rest, namespace, kind):
    """The ConfigMaps of a stage kind, by path."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    configmaps = objects.get(rest, f"{path}?labelSelector={KIND_LABEL}={kind}")["items"]
    return {f"{path}/{item['metadata']['name']}": item for item in configmaps}


def patch(rest, path, change):
    """As a stage's pod does; the server refuses what is too large."""
    answer = rest.patch(path, json=change, headers=objects.MERGE)
    assert answer.is_success, answer.text


def test_the_largest_model_from_its_data_to_the_end(cluster, rest, namespace):
    resource = the_model()
    objects.claim(rest, namespace, "models")
    document = resource.to_json()
    document["metadata"]["namespace"] = namespace
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=document)
    with FakePods(cluster, namespace, resource) as pods:
        for kind, stage in (("resolve", "Pending"), ("prepare", "prepare"), ("base", "base")):
            assert_it_fits(cluster, namespace, stage)
            until(f"the pod of {kind} has run", lambda: pods.run_waiting() == 1, 120)
    assert_it_fits(cluster, namespace, "baseline")

    progress = StageProgress(stage="s", step=123_456, total=1_234_567, loss=123.456, updated=2e9)
    training = of_kind(rest, namespace, "baseline")
    assert len(training) == JOBS
    for path in training:
        patch(rest, path, {"data": {PROGRESS_KEY: progress.model_dump_json(by_alias=True)}})
    status = assert_it_fits(cluster, namespace, "baseline", later=60)
    assert any("123456/1234567" in row.get("progress", "") for row in status["stages"])

    packed, _ = pack_manifests(all_done(resource, serve=False).values())
    (path,) = of_kind(rest, namespace, "resolve")
    patch(rest, path, {"binaryData": {MANIFESTS_KEY: packed}})
    assert assert_it_fits(cluster, namespace, "Trained")["qualified"] == "128/128"
