"""Upgrades, edits, removed Jobs and restored backups on a real API server with the real Job controller.

The operator's decisions are carried out one by one; `FakePods` stands in for the kubelet.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from devcluster.cluster_client import ClusterClient
from multitask_api.cluster import DISRUPTIONS_KEY, FINAL_KEY, KIND_LABEL, SNAPSHOT_KEY
from multitask_api.stages.versions import VERSIONS
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_operator.cluster.apply import Applied, apply
from multitask_operator.cluster.observe import observe
from multitask_operator.controller import Controller, NamespacedName
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.actions import PatchConfigMap
from multitask_operator.reconciler.state import run_record
from multitask_operator.settings import Settings
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import apply as kubectl_apply
from support.cluster.model_factory import make_model

SETTINGS = Settings(trainer_image="registry.example/trainer:1", resync_seconds=600)
#: Of one step, on a machine that has much else to do.
SECONDS = 120.0
#: No claim and no binding: pods of S3 storage wait for nothing.
STORAGE = {"uri": "s3://bucket/desk"}


class Desk:
    """A model called desk, its pods, and an operator that acts when it is told to."""

    def __init__(self, client: Client, cluster: ClusterClient, namespace: str):
        self.settings = SETTINGS
        self.client, self._cluster, self._namespace = client, cluster, namespace
        self.pods = FakePods(cluster, namespace, None)

    def apply(self, **spec: Any) -> None:
        """As a user does it."""
        self.pods.resource = make_model("urgency", storage=STORAGE, **spec)
        kubectl_apply(self._cluster, self._namespace, self.pods.resource)

    async def reconcile(self) -> Any:
        """One reconcile; the objects as they are after it."""
        await Controller(self.client, self.settings, reconcile).reconcile(NamespacedName(self._namespace, "desk"))
        return await self.state()

    async def state(self) -> Any:
        return await observe(self.client, self._namespace, "desk", now=0.0)

    async def until(self, what: Any, *, leave: tuple[str, ...] = ()) -> Any:
        """Reconcile and let pods run, but those of ``leave``, until ``what`` is true of the state."""
        deadline = monotonic() + SECONDS
        while monotonic() < deadline:
            state = await self.reconcile()
            if what(state):
                return state
            await asyncio.to_thread(self.pods.run_waiting, leave)
            await asyncio.sleep(0.05)
        raise AssertionError(f"not within {SECONDS} s; status {state.model.get('status')}")

    async def kubectl(self, *arguments: str) -> None:
        await asyncio.to_thread(self._cluster.kubectl, "-n", self._namespace, *arguments)


@pytest.fixture
async def desk(cluster: ClusterClient, namespace: str) -> AsyncIterator[Desk]:
    async with Client(await connect(cluster.admin)) as client:
        made = Desk(client, cluster, namespace)
        with made.pods:
            yield made


def jobs(state: Any, kind: str | None = None) -> dict[str, Any]:
    """Job → uid, of those that are not being deleted."""
    return {
        job["metadata"]["name"]: job["metadata"]["uid"]
        for job in state.jobs
        if "deletionTimestamp" not in job["metadata"] and kind in (None, job["metadata"]["labels"][KIND_LABEL])
    }


def trained(state: Any) -> bool:
    return bool((state.model.get("status") or {}).get("stage") == "Trained")


def waits(kind: str) -> Any:
    """A pod of ``kind`` waits for its kubelet."""
    return lambda state: any(
        pod["metadata"]["labels"][KIND_LABEL] == kind and pod["status"].get("phase") == "Pending" for pod in state.pods
    )


def evictions(state: Any) -> int:
    """How many the ConfigMap of the baseline's Job remembers."""
    texts = [(item.get("data") or {}).get(DISRUPTIONS_KEY) for item in state.configmaps]
    return sum(json.loads(text)["count"] for text in texts if text)


def has_pod(state: Any, uid: str) -> bool:
    return any(pod["metadata"]["uid"] == uid for pod in state.pods)


def raise_versions(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    raised = {kind: version + (kind in kinds) for kind, version in VERSIONS.items()}
    monkeypatch.setattr(run_record, "VERSIONS", raised)


@pytest.mark.parametrize("moment", ["during a run", "after one"])
async def test_an_upgrade_trains_nothing_again_and_stops_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    desk.apply()
    if moment == "during a run":
        await desk.until(waits("baseline"), leave=("baseline",))
    else:
        await desk.until(trained)
    ran = list(desk.pods.ran)
    raise_versions(monkeypatch, "prepare", "baseline", "mixture")
    desk.settings = replace(SETTINGS, trainer_image="registry.example/trainer:2")
    before = jobs(await desk.state())
    state = await desk.until(trained)
    assert jobs(state).items() >= before.items()
    assert len(desk.pods.ran) == len(set(desk.pods.ran)), "nothing twice"
    assert moment == "during a run" or desk.pods.ran == ran
    images = {job["spec"]["template"]["spec"]["containers"][0]["image"] for job in state.jobs}
    assert images == {SETTINGS.trainer_image}
    revision = state.model["status"]["revision"]
    state = await desk.reconcile()
    assert (state.model["status"]["revision"], jobs(state)) == (revision, jobs(await desk.state()))

    await desk.kubectl("annotate", "mtm", "desk", "multitask.dev/refresh=now")
    state = await desk.reconcile()
    (snapshot,) = [item for item in state.configmaps if SNAPSHOT_KEY in (item.get("data") or {})]
    recorded = json.loads(snapshot["data"][SNAPSHOT_KEY])
    assert (recorded["trainerImage"], recorded["refresh"]) == ("registry.example/trainer:2", "now")
    assert recorded["versions"]["mixture"] == VERSIONS["mixture"] + 1
    assert len(jobs(state, "resolve")) == 2


EDITS = {
    "no GPU": {"training": {"gpusPerNode": 0}},
    "memory": {"training": {"resources": {"limits": {"memory": "64Gi"}}}},
    "a node selector": {"training": {"podTemplate": {"spec": {"nodeSelector": {"pool": "a100"}}}}},
    "a Secret": {"credentials": [{"secretRef": {"name": "hub"}}]},
}


async def test_drained_pods_are_counted_though_the_api_server_removes_them(desk: Desk) -> None:
    desk.apply()
    for number in (1, 2):
        await desk.until(waits("baseline"), leave=("baseline",))
        (pod,) = await asyncio.to_thread(desk.pods.waiting)
        await asyncio.to_thread(desk.pods.begin_eviction, pod)
        await desk.until(lambda state, number=number: evictions(state) == number, leave=("baseline",))
        await asyncio.to_thread(desk.pods.end_eviction, pod)
        state = await desk.until(lambda state, uid=pod["metadata"]["uid"]: not has_pod(state, uid))
    (job,) = [job for job in state.jobs if job["metadata"]["labels"][KIND_LABEL] == "baseline"]
    assert not job["status"].get("failed"), "an eviction is no failure of a Job"
    assert evictions(await desk.reconcile()) == 2


@pytest.mark.parametrize("sentence", EDITS)
async def test_a_waiting_job_is_replaced_once_after_an_edit_of(desk: Desk, sentence: str) -> None:
    desk.apply()
    state = await desk.until(waits("baseline"), leave=("baseline",))
    before = jobs(state, "baseline")
    desk.apply(**EDITS[sentence])
    state = await desk.until(
        lambda state: jobs(state, "baseline") and jobs(state, "baseline") != before, leave=("baseline",)
    )
    after = jobs(state, "baseline")
    assert list(after) == list(before)
    for _ in range(3):
        assert jobs(await desk.reconcile(), "baseline") == after, "the API server's defaults are no change"
    await desk.until(trained)


async def test_a_failed_stage_stays_failed_when_its_job_is_removed(desk: Desk) -> None:
    desk.apply()
    state = await desk.until(waits("prepare"), leave=("prepare",))
    (name,) = jobs(state, "prepare")
    failure = {"stage": "prepare/urgency", "kind": "UserError", "message": "row 3 has no label", "digest": ""}
    notes = next(item for item in state.configmaps if item["metadata"]["name"] == name)["metadata"]["annotations"]
    failure["digest"] = notes["multitask.dev/digest"]
    desk.pods.patch_configmap(name, {"data": {"failure.json": json.dumps(failure)}})
    (pod,) = [item for item in state.pods if item["metadata"]["labels"][KIND_LABEL] == "prepare"]
    desk.pods.finish_pod(pod, "Failed", exitCode=2, reason="Error")

    def remembered(state: Any) -> bool:
        return any(FINAL_KEY in (item.get("data") or {}) for item in state.configmaps)

    await desk.until(remembered, leave=("prepare",))
    await desk.kubectl("delete", "job", name)
    for _ in range(3):
        state = await desk.reconcile()
        assert jobs(state, "prepare") == {}
    ready = next(item for item in state.model["status"]["conditions"] if item["type"] == "Ready")
    assert (ready["reason"], ready["message"]) == ("StageFailed", "prepare/urgency: row 3 has no label")
    await desk.kubectl("annotate", "mtm", "desk", "multitask.dev/refresh=now")
    await desk.until(trained)


@pytest.mark.parametrize("owner", ["nobody", "a former model"])
async def test_after_a_restore_what_has_no_owner_is_replaced(desk: Desk, owner: str) -> None:
    desk.apply()
    state = await desk.until(waits("baseline"), leave=("baseline",))
    before = {item["metadata"]["uid"] for item in (*state.jobs, *state.configmaps)}
    for item in (*state.jobs, *state.configmaps):
        owners = [
            each | {"uid": "00000000-0000-0000-0000-000000000000"} for each in item["metadata"]["ownerReferences"]
        ]
        references = owners if owner == "a former model" else None
        change = {"metadata": {"ownerReferences": references}}
        what = f"{item['kind'].lower()}/{item['metadata']['name']}"
        await desk.kubectl("patch", what, "--type=merge", f"--patch={json.dumps(change)}")
    state = await desk.until(trained)
    assert not before & {item["metadata"]["uid"] for item in (*state.jobs, *state.configmaps)}


async def test_only_the_configmap_that_was_decided_about_is_patched(desk: Desk) -> None:
    desk.apply()
    state = await desk.reconcile()
    item = next(item for item in state.configmaps if item["metadata"]["labels"][KIND_LABEL] == "resolve")
    name, version = item["metadata"]["name"], item["metadata"]["resourceVersion"]
    assert await apply(desk.client, state, [PatchConfigMap("none", version, {"key": "no"})]) == Applied()
    assert await apply(desk.client, state, [PatchConfigMap(name, version, {"key": "yes"})]) == Applied()
    again = PatchConfigMap(name, version, {"key": "no"})
    assert await apply(desk.client, state, [again]) == Applied(conflict=True), "somebody wrote in between"
    (after,) = [each for each in (await desk.state()).configmaps if each["metadata"]["name"] == name]
    assert after["data"] == item["data"] | {"key": "yes"}
