"""A trained model gets a revision with servers; what makes another one, and what happens to those before it."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from multitask_api.cluster import KIND_LABEL
from multitask_api.serving_io.names import IMAGE_ANNOTATION, SERVING
from multitask_api.serving_io.revision import REVISION_KEY, Revision
from multitask_operator.settings import PodDefaults
from support.graph_builders import task
from support.simulated_servers import IMAGE, SERVING_SETTINGS, ServedCluster
from support.simulation import SETTINGS, run_until

URGENCY, INTENT = task("urgency"), task("intent")
NEWER = "registry.example/triton:2"
OBJECTS = ("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service")


KNOWN = {}


def served(*tasks, **spec):
    """A cluster that serves; what it takes to get there is done once."""
    key = repr((tasks, spec))
    if key not in KNOWN:
        KNOWN[key] = ServedCluster(*(tasks or (URGENCY, INTENT)), **spec)
        KNOWN[key].serve()
    return copy.deepcopy(KNOWN[key])


def revision(cluster) -> Revision:
    """The record of the one revision that has servers."""
    (name,) = [name for name, replicas in cluster.replicas.items() if replicas]
    configmap = cluster.objects["ConfigMap", f"desk-serve-{name}"]
    return Revision.model_validate_json(configmap["data"][REVISION_KEY])


def ready(cluster):
    condition = cluster.condition("Ready")
    return condition["status"], condition["reason"]


def objects_of(cluster, name):
    return {kind for kind, item in cluster.objects if item == f"desk-serve-{name}" and kind in OBJECTS}


# -- the first revision ------------------------------------------------------------------------------------------------


def test_a_trained_model_is_served():
    cluster = served(serving={"replicas": 2})
    record = revision(cluster)

    assert (record.model, record.trained, record.image) == ("ml/desk", "0123abcd", IMAGE)
    assert record.storage == "/multitask/claims/models/desk"
    assert cluster.stored >= {f"{record.storage}/{record.artifact}"}, "the artifact is that which the export wrote"
    assert [(item.name, item.served_by, item.verdict) for item in record.tasks] == [
        ("urgency", "classification", "Qualified"),
        ("intent", "classification", "Qualified"),
    ]
    assert record.test_data.keys() == {"urgency", "intent"}
    assert cluster.objects["ConfigMap", f"desk-serve-{record.revision}"]["immutable"] is True
    assert objects_of(cluster, record.revision) == set(OBJECTS)
    assert cluster.weights == {"urgency": {record.revision: 100}, "intent": {record.revision: 100}}
    assert cluster.replicas == {record.revision: 2}
    assert ready(cluster) == ("True", "Serving")
    serving = cluster.model["status"]["serving"]
    assert (serving["revision"], serving["replicas"], serving["readyReplicas"]) == (record.revision, 2, 2)


def test_traffic_comes_after_the_servers_are_ready():
    cluster = ServedCluster(URGENCY)
    cluster.starts = lambda revision: False
    cluster.serve()
    assert cluster.replicas
    assert cluster.weights == {"urgency": {}}
    assert ready(cluster) == ("False", "ServersStarting")

    cluster.starts = lambda revision: True
    cluster.serve()
    assert list(cluster.weights["urgency"].values()) == [100]
    assert ready(cluster) == ("True", "Serving")


def test_nothing_is_served_without_a_serving_image():
    cluster = served(settings=SETTINGS)
    assert not cluster.recorded
    assert ready(cluster) == ("False", "Trained")


def test_a_result_that_is_not_promoted_is_not_served():
    cluster = ServedCluster(URGENCY)
    manifest = cluster._manifest
    cluster._manifest = lambda name, order: (
        made.model_copy(update={"result": {**made.result, "promoted": False}})
        if (made := manifest(name, order)).kind == "export"
        else made
    )
    cluster.serve()
    assert not cluster.recorded


@pytest.mark.parametrize(
    ("serving", "words"),
    [
        ({"podTemplate": {"spec": {"restartPolicy": "Never"}}}, "spec.serving.podTemplate.spec.restartPolicy"),
        (
            {"podTemplate": {"spec": {"containers": [{"name": "server", "command": ["sh"]}]}}},
            "spec.serving.podTemplate.spec.containers[server].command",
        ),
        (
            {"podTemplate": {"spec": {"initContainers": [{"name": "fetch", "$patch": "delete"}]}}},
            "spec.serving.podTemplate.spec.initContainers[fetch]: keep it",
        ),
        ({"podTemplate": {"metadata": {"labels": {KIND_LABEL: "x"}}}}, f"metadata.labels[{KIND_LABEL}]"),
        ({"resources": {"limits": {"memory": "much"}}}, "spec.serving.resources.limits.memory: 'much'"),
        ({"resources": {"cpu": "1"}}, "spec.serving.resources.cpu: not known"),
    ],
)
def test_an_error_in_the_servers_pods_is_found_before_anything_is_trained(serving, words):
    cluster = ServedCluster(URGENCY, serving=serving)
    cluster.settle()
    assert not cluster.jobs()
    assert cluster.condition("Ready")["reason"] == "InvalidSpec"
    assert words in cluster.condition("Ready")["message"]


# -- what makes a revision ---------------------------------------------------------------------------------------------

EDITS = [
    ("more servers", {"serving": {"replicas": 3}}, False),
    ("other steps", {"serving": {"rollout": {"steps": [50, 100]}}}, False),
    ("resources of the stages", {"training": {"resources": {"requests": {"memory": "2Gi"}}}}, False),
    ("revisions that are kept", {"storage": {"uri": "pvc://models/desk", "keepRevisions": 9}}, False),
    ("resources of the servers", {"serving": {"resources": {"limits": {"cpu": "4"}}}}, True),
    ("a pod template", {"serving": {"podTemplate": {"spec": {"priorityClassName": "high"}}}}, True),
    ("credentials", {"credentials": [{"secretRef": {"name": "bucket"}}]}, True),
    ("a registry's Secret", {"imagePullSecrets": [{"name": "registry"}]}, True),
    ("a service account", {"serviceAccountName": "reader"}, True),
]


@pytest.mark.parametrize(("edit", "is_new"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_edits_that_make_a_revision(edit, is_new):
    cluster = served()
    before = revision(cluster)
    cluster.edit(URGENCY, INTENT, **edit)
    cluster.serve()
    after = revision(cluster)
    assert (after.revision != before.revision) is is_new
    assert after.trained == before.trained
    assert ready(cluster) == ("True", "Serving")


def test_a_task_that_is_added_makes_a_revision_and_the_old_one_answers_until_it_is_ready():
    cluster = served(URGENCY)
    before = revision(cluster)
    cluster.edit(URGENCY, INTENT)
    run_until(cluster, "export")
    assert cluster.weights == {"urgency": {before.revision: 100}}
    assert ready(cluster) == ("True", "Serving"), "while it is trained"

    cluster.starts = lambda name: name == before.revision
    cluster.serve()
    assert sorted(cluster.replicas.values()) == [1, 1]
    assert cluster.weights == {"urgency": {before.revision: 100}, "intent": {}}
    assert ready(cluster) == ("True", "Serving")
    assert cluster.condition("Reconciling")["status"] == "True"

    cluster.starts = lambda name: True
    cluster.serve()
    after = revision(cluster)
    assert cluster.weights == {name: {after.revision: 100} for name in ("urgency", "intent")}
    assert cluster.replicas == {before.revision: 0, after.revision: 1}
    assert "Reconciling" not in {item["type"] for item in cluster.model["status"]["conditions"]}


def test_an_upgrade_of_the_installation_rolls_nothing():
    cluster = served()
    before, written = revision(cluster), cluster.written
    pods = PodDefaults({"spec": {"priorityClassName": "high"}})
    cluster.settings = dataclasses.replace(
        SERVING_SETTINGS, serving_image=NEWER, serving_pods=pods, image_pull_policy="Always", fixed_user=False
    )
    cluster.serve()
    assert revision(cluster) == before
    assert cluster.written == written


def test_the_annotation_adopts_the_installed_image():
    cluster = served()
    before = revision(cluster)
    cluster.settings = dataclasses.replace(SERVING_SETTINGS, serving_image=NEWER)
    cluster.annotate(IMAGE_ANNOTATION, "1")
    cluster.serve()
    after = revision(cluster)
    assert (before.image, after.image) == (IMAGE, NEWER)
    assert (after.trained, after.revision != before.revision) == (before.trained, True)

    del cluster.model["metadata"]["annotations"][IMAGE_ANNOTATION]
    cluster.serve()
    assert revision(cluster) == after, "to remove it asks for nothing"


def test_a_new_revision_has_the_installed_image():
    cluster = served()
    cluster.settings = dataclasses.replace(SERVING_SETTINGS, serving_image=NEWER)
    cluster.edit(URGENCY, INTENT, serving={"resources": {"limits": {"cpu": "4"}}})
    cluster.serve()
    assert revision(cluster).image == NEWER


def test_an_edit_that_is_taken_back_serves_the_revision_of_before():
    cluster = served()
    before = revision(cluster)
    cluster.edit(URGENCY, INTENT, serving={"resources": {"limits": {"cpu": "4"}}})
    cluster.serve()
    assert revision(cluster) != before
    cluster.edit(URGENCY, INTENT)
    cluster.serve()
    assert revision(cluster) == before


# -- replicas, and revisions that are kept -----------------------------------------------------------------------------


def test_replicas_change_in_place():
    cluster = served()
    name = revision(cluster).revision
    for wanted, expected in ((4, ("True", "Serving")), (0, ("False", "ScaledToZero")), (2, ("True", "Serving"))):
        cluster.edit(URGENCY, INTENT, serving={"replicas": wanted})
        cluster.serve()
        assert cluster.replicas == {name: wanted}
        assert ready(cluster) == expected
        assert cluster.weights == {"urgency": {name: 100}, "intent": {name: 100}}


def test_during_a_rollout_servers_are_only_added():
    cluster = served(serving={"replicas": 4})
    before = revision(cluster).revision
    cluster.starts = lambda name: name == before
    pods = {"podTemplate": {"spec": {"priorityClassName": "high"}}}
    for wanted, servers in ((4, 4), (2, 4), (6, 6)):
        cluster.edit(URGENCY, INTENT, serving={"replicas": wanted, **pods})
        cluster.serve()
        assert set(cluster.replicas.values()) == {servers}


@pytest.mark.parametrize("kept", [1, 2])
def test_only_so_many_revisions_are_kept(kept):
    cluster = served(storage={"uri": "pvc://models/desk", "keepRevisions": kept})
    names = [revision(cluster).revision]
    for cpus in range(1, kept + 3):
        cluster.edit(
            URGENCY,
            INTENT,
            storage={"uri": "pvc://models/desk", "keepRevisions": kept},
            serving={"resources": {"limits": {"cpu": str(cpus)}}},
        )
        cluster.serve()
        names.append(revision(cluster).revision)
    assert cluster.recorded == set(names[-1 - kept :])
    assert cluster.replicas == {**dict.fromkeys(names[-1 - kept : -1], 0), names[-1]: 1}
    for name in names[: -1 - kept]:
        assert not objects_of(cluster, name)


def test_only_so_many_models_roll_out_at_once():
    cluster = served()
    before = revision(cluster)
    cluster.rolling_models = ("ml/a", "ml/b", "other/c")
    cluster.edit(URGENCY, INTENT, serving={"resources": {"limits": {"cpu": "4"}}})
    cluster.serve()
    assert revision(cluster) == before
    assert cluster.recorded == {before.revision}
    reconciling = cluster.condition("Reconciling")
    assert (reconciling["reason"], ready(cluster)) == ("WaitingForOtherModels", ("True", "Serving"))
    assert "ml/a, ml/b and other/c" in reconciling["message"]

    cluster.rolling_models = ("ml/a", "ml/b")
    cluster.serve()
    assert revision(cluster) != before


def test_a_first_revision_does_not_wait_for_other_models():
    cluster = ServedCluster(URGENCY)
    cluster.rolling_models = ("ml/a", "ml/b", "other/c")
    cluster.serve()
    assert ready(cluster) == ("True", "Serving")


def test_servers_that_could_not_share_storage_do_not_start():
    cluster = ServedCluster(URGENCY, access="ReadWriteOnce", serving={"replicas": 2})
    cluster.serve()
    assert ready(cluster) == ("False", "StorageNotShared")
    assert not cluster.replicas

    cluster.edit(URGENCY, serving={"replicas": 1})
    cluster.serve()
    assert (list(cluster.replicas.values()), ready(cluster)) == ([1], ("True", "Serving"))

    cluster.edit(URGENCY, serving={"replicas": 3})
    cluster.serve()
    assert (list(cluster.replicas.values()), ready(cluster)) == ([1], ("True", "Serving"))


@pytest.mark.parametrize("serving", [{"podTemplate": {"spec": {"hostname": "x"}}}, {"resources": {"cpu": "1"}}])
def test_an_edit_that_cannot_be_carried_out_stops_nobody(serving):
    cluster = served()
    before = revision(cluster)
    cluster.edit(URGENCY, INTENT, serving=serving)
    cluster.serve()
    assert revision(cluster) == before
    assert ready(cluster) == ("True", "Serving")
    assert cluster.condition("Progressing")["reason"] == "InvalidSpec"


@pytest.mark.parametrize(
    ("resources", "fetch"),
    [
        ({}, {"cpu": "250m", "memory": "512Mi"}),
        ({"requests": {"cpu": "50m", "memory": "1Gi"}}, {"cpu": "50m", "memory": "512Mi"}),
        ({"requests": {"cpu": "100m"}, "limits": {"cpu": "4", "memory": "256Mi"}}, {"cpu": "100m", "memory": "256Mi"}),
        ({"limits": {"cpu": "4", "memory": "9Gi"}}, {"cpu": "250m", "memory": "512Mi"}),
    ],
)
def test_a_pod_reserves_no_more_for_the_copy_than_for_the_server(resources, fetch):
    cluster = ServedCluster(URGENCY, serving={"resources": resources})
    cluster.serve()
    pod = cluster.deployments()[0]["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["resources"] == {"requests": fetch}


# -- why nobody answers ------------------------------------------------------------------------------------------------


def _waiting(reason, message=""):
    return {
        "containerStatuses": [
            {"name": "server", "image": "i", "state": {"waiting": {"reason": reason, "message": message}}}
        ]
    }


def _ended(container, group, code, message="", reason="Error"):
    ended = {"exitCode": code, "message": message, "reason": reason}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    return {group: [{"name": container, "state": waiting, "lastState": {"terminated": ended}}]}


def _unscheduled(message):
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}


STUCK = [
    (_waiting("ImagePullBackOff", "not found"), "ImageNotPulled", "adopt-serving-image"),
    (_waiting("CreateContainerConfigError", 'secret "hub" not found'), "SecretMissing", "'hub'"),
    (_unscheduled("0/3 nodes: 3 Insufficient nvidia.com/gpu"), "NoGPUFree", "spec.serving.replicas"),
    (_unscheduled("0/3 nodes: 3 Insufficient memory"), "Unschedulable", "spec.serving.resources"),
    (_ended("fetch", "initContainerStatuses", 2, "a\ndigest differs"), "FetchFailed", "digest differs"),
    (_ended("server", "containerStatuses", 1, "no stub"), "ServerFailed", "no stub"),
    (_ended("server", "containerStatuses", 137, reason="OOMKilled"), "ServerOutOfMemory", "limits.memory"),
]


@pytest.mark.parametrize(("status", "reason", "words"), STUCK, ids=[row[1] for row in STUCK])
def test_the_one_reason_why_a_server_does_not_start(status, reason, words):
    cluster = ServedCluster(URGENCY)
    cluster.starts = lambda name: False
    cluster.serve()
    for (kind, _), item in cluster.objects.items():
        if kind == "Pod":
            item["status"] = {"phase": "Pending", **status}
            item["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    cluster.settle()
    assert ready(cluster) == ("False", reason)
    assert words in cluster.condition("Ready")["message"]


def test_a_first_revision_that_waits_for_approval_says_so():
    cluster = ServedCluster(URGENCY, serving={"approval": "Manual"})
    cluster.serve()
    assert ready(cluster) == ("False", "ApprovalNeeded")
    assert cluster.model["status"]["approval"] in cluster.condition("Ready")["message"]


def test_servers_without_a_gateway_say_so():
    cluster = ServedCluster(URGENCY, settings=dataclasses.replace(SERVING_SETTINGS, gateway_address=""), gateways=())
    cluster.serve()
    assert ready(cluster) == ("False", "NoGateway")


# -- healing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_that_is_deleted_by_hand_is_made_again(kind):
    cluster = served()
    cluster.settings = dataclasses.replace(SERVING_SETTINGS, serving_image=NEWER)
    name = f"desk-serve-{revision(cluster).revision}"
    before = cluster.objects.pop((kind, name))
    cluster.serve()
    after = cluster.objects[kind, name]
    assert (after.get("spec"), after.get("data")) == (before.get("spec"), before.get("data"))


def test_a_table_that_is_deleted_by_hand_is_made_again():
    cluster = served()
    before = cluster.objects.pop(("TaskRoute", "desk"))
    cluster.serve()
    assert cluster.route["spec"] == before["spec"]
    assert ready(cluster) == ("True", "Serving")


def _set(path, value):
    def change(item):
        *parents, last = path
        for name in parents:
            item = item[name]
        item[last] = value

    return change


HAND_EDITS = [
    ("replicas", "Deployment", _set(("spec", "replicas"), 7)),
    (
        "another image",
        "Deployment",
        _set(("spec", "template", "spec", "containers", 0, "image"), "registry.example/mine:1"),
    ),
    (
        "another command",
        "Deployment",
        _set(("spec", "template", "spec", "initContainers", 0, "command"), ["true"]),
    ),
    ("no probe", "Deployment", lambda item: item["spec"]["template"]["spec"]["containers"][0].pop("readinessProbe")),
    ("other pods", "Service", _set(("spec", "selector"), {"app": "mine"})),
    ("a hole", "NetworkPolicy", _set(("spec", "ingress"), [{}])),
    ("nobody may leave", "PodDisruptionBudget", _set(("spec", "maxUnavailable"), 0)),
    ("no owner", "Deployment", lambda item: item["metadata"].pop("ownerReferences")),
    ("no owner", "ConfigMap", lambda item: item["metadata"].pop("ownerReferences")),
]


@pytest.mark.parametrize(("kind", "edit"), [row[1:] for row in HAND_EDITS], ids=[f"{r[0]}-{r[1]}" for r in HAND_EDITS])
def test_an_object_that_is_edited_by_hand_heals(kind, edit):
    cluster = served()
    name = f"desk-serve-{revision(cluster).revision}"
    item = cluster.objects[kind, name]
    before = json.dumps([item.get("spec"), item["metadata"]["ownerReferences"], item["metadata"]["uid"]])
    edit(item)
    cluster.serve()
    item = cluster.objects[kind, name]
    assert json.dumps([item.get("spec"), item["metadata"]["ownerReferences"], item["metadata"]["uid"]]) == before


def test_a_table_that_is_edited_by_hand_heals():
    cluster = served()
    before = json.dumps(cluster.route["spec"])
    cluster.route["spec"]["tasks"][0]["backends"][0]["service"] = "elsewhere"
    cluster.serve()
    assert json.dumps(cluster.route["spec"]) == before


def test_what_the_server_or_others_add_is_left_alone():
    cluster = served(
        serving={
            "resources": {"limits": {"cpu": "0.5", "memory": "2048Mi"}},
            "podTemplate": {"spec": {"hostIPC": False}},
        }
    )
    deployment = cluster.objects["Deployment", f"desk-serve-{revision(cluster).revision}"]
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"].insert(0, {"name": "sidecar", "image": "mesh"})
    pod["containers"][1]["resources"]["limits"] = {"cpu": "500m", "memory": "2Gi"}
    pod["containers"][1]["ports"][0]["hostPort"] = 0
    pod["containers"][1]["env"].append({"name": "PROXY", "value": "x"})
    pod |= {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
    pod.pop("hostIPC")
    deployment["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    cluster.model["status"] = {}
    written = cluster.written
    cluster.serve()
    assert cluster.written == written + 1, "the status alone"


def test_what_a_former_model_of_the_name_left_is_replaced():
    cluster = served()
    for kind, name in list(cluster.objects):
        item = cluster.objects[kind, name]
        if item["metadata"].get("labels", {}).get(KIND_LABEL) == SERVING and "ownerReferences" in item["metadata"]:
            item["metadata"]["ownerReferences"][0]["uid"] = "u-former"
    cluster.serve()
    owners = {
        item["metadata"]["ownerReferences"][0]["uid"]
        for (kind, _), item in cluster.objects.items()
        if kind in (*OBJECTS, "TaskRoute")
    }
    assert owners == {"u-desk"}
    assert ready(cluster) == ("True", "Serving")
