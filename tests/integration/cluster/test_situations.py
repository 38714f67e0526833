"""Everything that can be wrong around a model, on a real API server with the real operator and the real Job controller:
each ends in a trained model, or Ready and `mtm explain` name one reason, the object and what to do; and once that is
done, it goes on by itself. All situations happen at once, each in a namespace of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from devcluster import chart
from support.cluster.fault_steps import (
    BATCH,
    RBAC,
    add_task_while_training,
    admit_jobs,
    clear_status,
    corrupt_results,
    corrupt_snapshot,
    create_admission_policy,
    create_claim,
    create_configmap,
    create_foreign_object,
    create_limit_range,
    create_long_labels,
    create_lost_claim,
    create_one_node_claim,
    create_quota,
    create_terminating_claim,
    delete_account,
    delete_admission_policy,
    delete_and_recreate_model,
    delete_child,
    delete_job_with_foreign_finalizer,
    delete_limit_range,
    delete_model,
    delete_namespace,
    delete_object,
    delete_pod,
    delete_quota,
    delete_snapshot,
    edit_spec,
    fail_job,
    fail_pod,
    mend_data,
    nothing,
    open_gates,
    overwrite_status,
    patch_child,
    post_warning,
    preempt_twice,
    recreate_claim,
    refresh,
    remove_access,
    remove_foreign_finalizer,
    replace_claim,
    report_data_problems,
    set_unschedulable,
    set_waiting,
    suspend,
)
from support.cluster.model_scenario import ModelScenario
from support.cluster.operator_cluster import start_operator_cluster
from support.graph_builders import task

#: Situations that happen at the same time.
AT_ONCE = 64


@dataclass(frozen=True)
class Situation:
    """``given`` exists before the model, ``breaks`` happens then; Ready gets ``reason`` and a message with ``part``.

    ``mends`` is what helps then, so that the stages go on to ``then``; None: this is the end. Without a ``reason``
    nothing stops it, and it is trained.
    """

    reason: str | None = None
    part: str = ""
    given: Callable = create_claim
    breaks: Callable = nothing
    mends: Callable | None = nothing
    then: str = "base"
    spec: Mapping[str, Any] = field(default_factory=dict)
    name: str = "desk"
    edit_document: Callable = nothing
    labels: Mapping[str, str] | None = None
    may_create_jobs: bool = True


def template(**spec):
    return {"training": {"podTemplate": {"spec": spec}}}


def from_configmap(document):
    del document["spec"]["tasks"][0]["prompt"]
    document["spec"]["tasks"][0]["promptFrom"] = {"name": "prompts", "key": "urgency"}


def with_listed_labels(document):
    for each in document["spec"]["tasks"]:
        del each["labels"]
        each["labelsFrom"] = {"name": "labels", "key": "words"}


PULL = 'Back-off pulling image "registry.example/trainer:1": 401 Unauthorized'
ROWS = "2 bad rows\ns3://bucket/urgency/train.jsonl:3: no field text\ns3://bucket/urgency/train.jsonl:9: no label"
CORRUPT = (
    "/multitask/claims/models/desk/stages/base/1/model.safetensors has other bytes than its manifest says; delete the"
    " folder /multitask/claims/models/desk/stages/base/1 to have base redone"
)
FULL = "claim 'models' is full; make room there or enlarge it, then the stage goes on where it was"
RELEASE = (
    "the operator asks for version 2 of stage kind 'prepare', and this image has 1: use operator and trainer images of"
    " one release"
)
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available."
NO_NODE = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
RIGHTS = {"privileged": True, "allowPrivilegeEscalation": True}
PRIVILEGED = template(containers=[{"name": "trainer", "securityContext": RIGHTS}])
BAD_VOLUME = template(volumes=[{"name": "Not_A_Name", "emptyDir": {}}])
UNLABELLED = {"metadata": {"labels": {"multitask.dev/model": None}}}
UNMANAGED = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
STRANGE_ROLE = {"metadata": {"name": "desk-stages"}, "rules": []}

SITUATIONS = {
    # -- claims
    "the claim is missing": Situation(
        "ClaimMissing", "'models' does not exist in this namespace; create it", given=nothing, mends=create_claim
    ),
    "the claim is being deleted": Situation(
        "ClaimDeleted", "'models' is being deleted", given=create_terminating_claim, mends=recreate_claim
    ),
    "the claim has lost its volume": Situation(
        "ClaimLost", "'models' has lost its volume", given=create_lost_claim, mends=replace_claim
    ),
    "pods on two nodes, and a claim of one": Situation(
        "StorageNotShared",
        "claim 'models' offers ReadWriteOnce",
        given=create_one_node_claim,
        mends=edit_spec(training={"nodes": 1}),
        spec={"training": {"nodes": 2}},
    ),
    "several Jobs, and a claim of one node": Situation(
        given=create_one_node_claim, spec={"tasks": ("urgency", "intent")}
    ),
    "the claim is full": Situation(
        "Retrying", "claim 'models' is full; make room", breaks=fail_pod("base", 75, "Retryable", FULL), then="filter"
    ),
    # -- pods that do not start
    "a Secret of credentials is missing": Situation(
        "SecretMissing",
        "Secret 'hub-token', named in spec.credentials",
        breaks=set_waiting("CreateContainerConfigError", 'secret "hub-token" not found'),
        spec={"credentials": [{"secretRef": {"name": "hub-token"}}]},
    ),
    "the registry wants a Secret": Situation(
        "ImageNotPulled",
        "registry.example/trainer:1 cannot be pulled: Back-off",
        breaks=set_waiting("ImagePullBackOff", PULL),
    ),
    "the image's name is none": Situation(
        "ImageNotPulled", "InvalidImageName", breaks=set_waiting("InvalidImageName"), mends=edit_spec(training={})
    ),
    "an init container of the podTemplate has no image": Situation(
        "ImageNotPulled",
        "cannot be pulled: not found",
        breaks=set_waiting("ErrImagePull", "not found", init="fetch"),
        spec=template(initContainers=[{"name": "fetch", "image": "registry.example/fetch:1"}]),
    ),
    "a volume cannot be mounted": Situation(
        "PodWarning",
        'secret "key" not found',
        breaks=post_warning("FailedMount", 'MountVolume.SetUp failed for volume "key": secret "key" not found'),
    ),
    "no node has a GPU": Situation(
        "NoGPUFree",
        "waits for a free nvidia.com/gpu",
        breaks=set_unschedulable(NO_GPU, "baseline"),
        then="filter",
        spec={"training": {"gpusPerNode": 1}},
    ),
    "no node has that label": Situation(
        "Unschedulable",
        "didn't match Pod's node affinity/selector",
        breaks=set_unschedulable(NO_NODE),
        mends=edit_spec(training={}),
        spec=template(nodeSelector={"pool": "none"}),
    ),
    "a queue has not admitted the Jobs": Situation(
        "Queued", "waits for admission by queue 'team-a'", mends=admit_jobs, spec={"training": {"queueName": "team-a"}}
    ),
    "a scheduling gate holds the pods": Situation(
        "Gated",
        "waits for a scheduling gate",
        mends=open_gates,
        spec=template(schedulingGates=[{"name": "example.com/budget"}]),
    ),
    # -- attempts that fail
    "rows are bad": Situation(
        "StageFailed",
        "prepare/urgency: 2 bad rows\ns3://bucket/urgency/train.jsonl:3: no field text",
        breaks=fail_pod("prepare", 2, "UserError", ROWS),
        mends=refresh,
    ),
    "the image is of another release": Situation(
        "StageFailed", "images of one release", breaks=fail_pod("prepare", 2, "UserError", RELEASE), mends=refresh
    ),
    "data is not where it should be": Situation(
        "DataNotFound",
        "s3://bucket/urgency/train.jsonl: no such file",
        breaks=report_data_problems("s3://bucket/urgency/train.jsonl: no such file or folder"),
        mends=mend_data,
    ),
    "the look at the data is refused": Situation(
        "ResolveFailed",
        "access denied; check the Secrets of spec.credentials",
        breaks=fail_pod("resolve", 2, "UserError", "s3://bucket: access denied; check the Secrets of spec.credentials"),
        mends=refresh,
    ),
    "a store does not answer once": Situation(
        "Retrying",
        "s3 did not answer; its Job tries again",
        breaks=fail_pod("base", 75, "Retryable", "s3 did not answer"),
        then="filter",
    ),
    "memory runs out once": Situation(
        "Retrying",
        "ran out of memory (limit 2Gi); raise spec.training.resources.limits.memory",
        breaks=fail_pod("baseline", 137, reason="OOMKilled"),
        then="filter",
        spec={"training": {"resources": {"limits": {"memory": "2Gi"}}}},
    ),
    "memory runs out in every attempt": Situation(
        "StageFailed",
        "baseline/urgency/seed-17: ran out of memory (limit 2Gi)",
        breaks=fail_job("baseline", 137, reason="OOMKilled"),
        then="filter",
        mends=edit_spec(training={"resources": {"limits": {"memory": "4Gi"}}}),
        spec={"training": {"resources": {"limits": {"memory": "2Gi"}}}},
    ),
    "an artifact is corrupt": Situation(
        "StageFailed",
        "to have base redone",
        breaks=fail_job("baseline", 75, "Retryable", CORRUPT),
        then="filter",
        mends=refresh,
    ),
    "the program crashes in every attempt": Situation(
        "StageFailed",
        "its program ended with exit code 139: Segmentation fault; `mtm logs NAME base` shows",
        breaks=fail_job("base", 139, printed="loading\nSegmentation fault"),
        then="filter",
        mends=refresh,
    ),
    "pods are preempted": Situation(breaks=preempt_twice),
    # -- what hands do
    "a Job is deleted": Situation(breaks=delete_child("jobs", BATCH)),
    "the pods of a Job are deleted": Situation(breaks=delete_pod),
    "a unit's ConfigMap is deleted": Situation(breaks=delete_child("configmaps")),
    "results are overwritten with garbage": Situation(breaks=corrupt_results),
    "the run's snapshot is overwritten with garbage": Situation(breaks=corrupt_snapshot),
    "the run's snapshot is deleted": Situation(breaks=delete_snapshot),
    "a Job loses its labels": Situation(breaks=patch_child("jobs", UNLABELLED, BATCH)),
    "a Job loses the label of who manages it": Situation(breaks=patch_child("jobs", UNMANAGED, BATCH)),
    "a unit's ConfigMap loses its labels": Situation(breaks=patch_child("configmaps", UNLABELLED)),
    "a unit's ConfigMap loses its annotations": Situation(
        breaks=patch_child("configmaps", {"metadata": {"annotations": None}})
    ),
    "a Job that was deleted has a finalizer": Situation(
        "NotDeleted",
        "still exists, finalizers: example.com/hold",
        breaks=delete_job_with_foreign_finalizer,
        mends=remove_foreign_finalizer,
        then="baseline",
    ),
    "the pods' Role is deleted": Situation(breaks=remove_access("roles")),
    "the pods' Role is emptied": Situation(breaks=remove_access("roles", {"rules": []})),
    "the pods' RoleBinding is deleted": Situation(breaks=remove_access("rolebindings")),
    "the pods' ServiceAccount is deleted": Situation(breaks=delete_account),
    "the status is wiped": Situation(breaks=clear_status),
    "another client writes the status": Situation(breaks=overwrite_status),
    "it is suspended in the middle": Situation(
        "Suspended", "set it to false", breaks=suspend, mends=edit_spec(suspend=False), then="filter"
    ),
    "a task is edited in the middle": Situation(breaks=add_task_while_training, spec={"tasks": ("urgency", "intent")}),
    "it is deleted and applied again in the middle": Situation(breaks=delete_and_recreate_model),
    "the model is deleted in the middle": Situation(breaks=delete_model, mends=None),
    "the namespace is deleted in the middle": Situation(breaks=delete_namespace, mends=None),
    # -- what the namespace allows
    "a quota refuses pods": Situation(
        "QuotaExceeded", "exceeded quota: team", given=create_quota(pods="0"), mends=delete_quota
    ),
    "a quota refuses Jobs": Situation(
        "WriteRefused",
        "exceeded quota: team",
        given=create_quota(**{"count/jobs.batch": "0"}),
        mends=delete_quota,
    ),
    "a limit range refuses pods": Situation(
        "PodRefused",
        "; its resources are those of spec.training.podTemplates.resolve, container trainer",
        given=create_limit_range,
        mends=delete_limit_range,
    ),
    "an admission policy refuses pods": Situation(
        "PodRefused",
        "denied request: pods need the label cost",
        given=create_admission_policy,
        mends=delete_admission_policy,
    ),
    "the namespace takes restricted pods only": Situation(labels=RESTRICTED),
    "it takes restricted pods only, and the podTemplate is privileged": Situation(
        "PodRefused",
        'violates PodSecurity "restricted:latest": privileged',
        mends=edit_spec(training={}),
        spec=PRIVILEGED,
        labels=RESTRICTED,
    ),
    "the operator may not create Jobs": Situation(
        "WriteRefused",
        'cannot create resource "jobs" in API group "batch"',
        mends=lambda scenario: scenario.operator_cluster.allow_jobs(scenario.rest, scenario.namespace),
        may_create_jobs=False,
    ),
    # -- what is asked for
    "a ConfigMap of prompts is missing": Situation(
        "InvalidSpec",
        "spec.tasks[0].promptFrom: there is no ConfigMap 'prompts'",
        mends=create_configmap("prompts", urgency="{text}\n:"),
        edit_document=from_configmap,
    ),
    "the podTemplate changes what the operator relies on": Situation(
        "InvalidSpec",
        "spec.training.podTemplate.spec.restartPolicy: remove it",
        mends=edit_spec(training={}),
        spec=template(restartPolicy="Always"),
    ),
    "the podTemplate is none that the API takes": Situation(
        "WriteRefused", "spec.training.podTemplate.spec.volumes", mends=edit_spec(training={}), spec=BAD_VOLUME
    ),
    "more labels than a ConfigMap holds": Situation(
        "InvalidSpec",
        "a ConfigMap has room for",
        given=create_long_labels,
        mends=edit_spec(tasks=("urgency",)),
        spec={"tasks": [task(f"task-{number}") for number in range(60)]},
        edit_document=with_listed_labels,
    ),
    "a foreign ConfigMap has the snapshot's name": Situation(
        "WriteRefused",
        "create ConfigMap desk-run-1: there is one of this name that does not belong to desk; delete or rename it",
        given=create_foreign_object("configmaps", {"metadata": {"name": "desk-run-1"}}),
        mends=delete_object("configmaps/desk-run-1"),
    ),
    "a foreign Role has the name of the pods' Role": Situation(
        "WriteRefused",
        "apply Role desk-stages: there is one of this name that does not belong to desk",
        given=create_foreign_object("roles", STRANGE_ROLE, RBAC),
        mends=delete_object("roles/desk-stages", RBAC),
    ),
    "the model's name has 63 characters": Situation(name="d" * 60 + "-63"),
}


@pytest.fixture(scope="module")
def futures(request, tmp_path_factory, _able):
    """Every situation that was asked for, at work; by its sentence."""
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    asked = [item.callspec.params["sentence"] for item in request.session.items if "futures" in item.fixturenames]
    with (
        start_operator_cluster(tmp_path_factory.mktemp("situations")) as operator_cluster,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        yield {each: pool.submit(happen, operator_cluster, each) for each in asked}
        assert "fault of the operator" not in operator_cluster.log.read_text()


def happen(operator_cluster, sentence):
    """The situation from its beginning to its end."""
    situation = SITUATIONS[sentence]
    namespace = re.sub(r"[^a-z0-9]+", "-", sentence.lower())[:60].strip("-")
    with ModelScenario(
        operator_cluster, namespace, situation.name, situation.edit_document, **situation.spec
    ) as scenario:
        operator_cluster.create_namespace(
            scenario.rest, namespace, labels=situation.labels, may_create_jobs=situation.may_create_jobs
        )
        situation.given(scenario)
        scenario.apply()
        situation.breaks(scenario)
        if situation.reason is not None:
            scenario.wait_for_ready(situation.reason, situation.part)
        if situation.mends is not None:
            situation.mends(scenario)
            scenario.wait_for_pod(situation.then) if situation.reason else scenario.train()


@pytest.mark.parametrize("sentence", SITUATIONS)
def test_it_converges_or_says_why_not_and_goes_on_once_mended(futures, sentence):
    futures[sentence].result()
