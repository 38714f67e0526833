"""``mtm-operator`` started on the objects that an older one left, on a real API server with its controllers.

The objects come back with their uids and status, as from a back-up; stage pods report what the older ones reported.
"""

from __future__ import annotations

import json

import pytest

from devcluster import objects
from devcluster.processes import until
from support.cluster.operator_process import run_operator
from support.cluster.restore import restore
from support.frozen import (
    IMAGE,
    MODEL,
    NAMESPACE,
    NEWER_IMAGE,
    by_name,
    contains,
    frozen_objects,
    recorded_manifests,
    status_of,
)

SECONDS = 240
OWNED = "jobs,configmaps,serviceaccounts,roles,rolebindings"
ALL = ("system:masters",)
INSTALLED = {"MULTITASK_TRAINER_IMAGE": NEWER_IMAGE}


@pytest.fixture
def access(own_cluster):
    """A control plane with the namespace and the claim of the samples."""
    with own_cluster.client.rest() as rest:
        objects.namespace(rest, NAMESPACE)
        objects.claim(rest, NAMESPACE, "models")
    return own_cluster.client


class RecordedPods:
    """The pods of the model: each reports, with its account's rights, what the older pod of its stage reported."""

    def __init__(self, access) -> None:
        self.access = access
        self.ran: list[str] = []
        self._manifests = recorded_manifests()

    def work(self) -> int:
        """Every pod that has not ended runs to its end; how many."""
        pods = [pod for pod in listed(self.access, "pods") if pod["status"]["phase"] in ("Pending", "Running")]
        for pod in pods:
            self.end(pod)
        return len(pods)

    def end(self, pod) -> None:
        """The pod reports and succeeds."""
        job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
        account = self.access.service_account(NAMESPACE, pod["spec"]["serviceAccountName"])
        configmap = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{job}"
        with self.access.rest() as admin, self.access.rest(account) as own:
            report = self._report(objects.get(admin, configmap))
            answer = own.patch(configmap, json=report, headers=objects.MERGE)
            assert answer.is_success, answer.text
            container = {"name": pod["spec"]["containers"][0]["name"], "image": "i", "imageID": "", "ready": False}
            container |= {"restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}"
            objects.patch_status(admin, path, {"phase": "Succeeded", "containerStatuses": [container]})

    def _report(self, configmap):
        if "clean-up.json" in configmap["data"]:
            self.ran.append("clean-up")
            return {"data": {"cleaned.json": json.dumps({"results": 1, "files": 2, "bytes": 3, "left": 0})}}
        orders = json.loads(configmap["data"]["orders.json"])["orders"]
        self.ran += [order["stage"] for order in orders]
        keys = [f"{order['digest']}.manifest.gz" for order in orders]
        return {"binaryData": {key: self._manifests[key] for key in keys}}


def listed(access, kinds):
    return access.get(kinds, "--namespace", NAMESPACE, "--selector", f"multitask.dev/model={MODEL}")["items"]


def model(access):
    return access.get("multitaskmodels", MODEL, "--namespace", NAMESPACE)


def trained(access, pods):
    return not pods.work() and model(access)["status"]["stage"] == "Trained"


def all_succeeded(jobs):
    """The Job controller notes it a moment after the pod has ended."""
    return all(job["status"].get("succeeded") == 1 for job in jobs)


def back_again(access, moment):
    """The objects of the sample, which are in the cluster again."""
    restored = [item for item in frozen_objects(moment) if item["kind"] != "PersistentVolumeClaim"]
    restore(access, restored)
    until("they are served", lambda: len(listed(access, OWNED)) >= len(restored) // 2, 30)
    (stored,) = by_name(restored, "MultiTaskModel").values()
    assert model(access)["metadata"]["uid"] == stored["metadata"]["uid"]
    return restored


def test_a_run_that_an_older_operator_began_goes_on_and_nothing_runs_twice(access, tmp_path):
    older, ended = back_again(access, "running"), frozen_objects("trained")
    mark, pods = access.audit_mark(), RecordedPods(access)
    with run_operator(access.user("operator", ALL), tmp_path, NAMESPACE, **INSTALLED) as running:
        running.until("it rests", running.is_idle)
        writes = access.writes(mark, "operator")
        assert [line for line in writes if not line.startswith("patch multitaskmodels/status")] == []
        running.until("the model is trained", lambda: trained(access, pods), SECONDS)
        running.until("every Job has succeeded", lambda: all_succeeded(listed(access, "jobs")), SECONDS)
        running.until("it rests again", running.is_idle)
        mark, served = access.audit_mark(), running.healthz().json()["served"]
        access.kubectl("label", "mtm", MODEL, "look=again", "--namespace", NAMESPACE)
        running.until("it reconciles", lambda: running.healthz().json()["served"] > served and running.is_idle())
        assert access.writes(mark, "operator") == []

    assert contains(status_of([model(access)]), status_of(ended))
    before, now = by_name(older, "Job"), by_name(listed(access, "jobs"), "Job")
    assert set(now) == set(by_name(ended, "Job"))
    uids = {name: job["metadata"]["uid"] for name, job in now.items()}
    assert uids.items() >= {name: job["metadata"]["uid"] for name, job in before.items()}.items()
    (still_open,) = (name for name, job in before.items() if not job["status"].get("completionTime"))
    expected = [stage for name in {*now} - {*before} | {still_open} for stage in stages(now[name])]
    assert sorted(pods.ran) == sorted(expected), "each once, and none that had ended"

    uid = model(access)["metadata"]["uid"]
    for item in listed(access, OWNED):
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("MultiTaskModel", uid, True)
    for job in now.values():
        assert {each["image"] for each in job["spec"]["template"]["spec"]["containers"]} == {IMAGE}
    for name, configmap in by_name(listed(access, "configmaps"), "ConfigMap").items():
        same = by_name(ended, "ConfigMap")[name] if "resolve" not in name else by_name(older, "ConfigMap")[name]
        assert configmap.get("binaryData") == same.get("binaryData")
        annotations = configmap["metadata"].get("annotations") or {}
        assert annotations.items() >= (same["metadata"].get("annotations") or {}).items()


def test_a_clean_up_that_an_older_operator_began_ends_and_the_model_goes(access, tmp_path):
    older = back_again(access, "deleting")
    jobs, mark, pods = by_name(older, "Job"), access.audit_mark(), RecordedPods(access)
    with run_operator(access.user("operator", ALL), tmp_path, NAMESPACE, **INSTALLED) as running:
        running.until("it rests", running.is_idle)
        assert {job["metadata"]["name"] for job in listed(access, "jobs")} == set(jobs)
        assert model(access)["metadata"]["finalizers"]
        assert pods.work() == 1
        there = ("get", "mtm", MODEL, "--namespace", NAMESPACE, "--ignore-not-found", "--output", "name")
        running.until("the model is gone", lambda: not access.kubectl(*there).stdout, SECONDS)
    assert pods.ran == ["clean-up"]
    assert [line for line in access.writes(mark, "operator") if line.startswith("create jobs")] == []
    until("nothing of it is left", lambda: listed(access, f"{OWNED},pods") == [], 60)


def stages(job):
    """The stages that a Job runs."""
    return job["metadata"]["annotations"]["multitask.dev/stage"].split(",")
