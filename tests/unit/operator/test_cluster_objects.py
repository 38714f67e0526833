"""What `mtm validate` says about a resource that a cluster would refuse, and that it refuses nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from multitask_api.resource import parse
from multitask_operator.local.cluster_objects import cluster_problems
from support.graph_builders import task

T = "spec.training.podTemplate"


def problems(**spec: Any) -> list[str]:
    """The lines about a resource with one task."""
    document = {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": "desk"},
        "spec": {"baseModel": {"uri": "builtin://tiny"}, "tasks": [task("urgency", "Classification")], **spec},
    }
    found = cluster_problems(parse(yaml.safe_dump(document)))
    return [f"{each.path}: {each.message}" for each in found]


def pods(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def trainer(**fields: Any) -> dict[str, Any]:
    return pods(containers=[{"name": "trainer", **fields}])


#: the sentence → training, what is said; the first are those of tests/integration/cluster/test_pod_settings.py
TRAINING: dict[str, tuple[dict[str, Any], list[str]]] = {
    "fields that no pod has": (
        {"podTemplate": pods(tolerationz=[{"operator": "Exists"}], nodeselector={"pool": "gpu"})},
        [f"{T}.spec.nodeselector: unknown field", f"{T}.spec.tolerationz: unknown field"],
    ),
    "a field that no container has": (
        {"podTemplate": trainer(resurces={})},
        [f"{T}.spec.containers[0].resurces: unknown field"],
    ),
    "a field of a sidecar": (
        {"podTemplate": pods(containers=[{"name": "trainer"}, {"name": "proxy", "image": "p", "prots": []}])},
        [f"{T}.spec.containers[1].prots: unknown field"],
    ),
    "a field that only pods with a GPU have": (
        {"podTemplates": {"gpu": pods(tolerationz=[])}},
        ["spec.training.podTemplates.gpu.spec.tolerationz: unknown field"],
    ),
    "a toleration that is none": (
        {"podTemplates": {"gpu": pods(tolerations=[{"key": "a", "operator": "Exist"}])}},
        [
            "spec.training.podTemplates.gpu.spec.tolerations[0].operator: 'Exist' is not known; use Exists or Equal",
        ],
    ),
    "an effect that is none": (
        {"podTemplate": pods(tolerations=[{"operator": "Exists", "effect": "NoRun"}])},
        [f"{T}.spec.tolerations[0].effect: 'NoRun' is not known; use NoSchedule, PreferNoSchedule"],
    ),
    "a number where text is wanted": (
        {"podTemplate": pods(nodeSelector={"pool": 1})},
        [f"{T}.spec.nodeSelector.pool: 1 is not text; quote it"],
    ),
    "a resource that is none": (
        {"resources": {"limits": {"memroy": "4Gi"}}},
        ["spec.training.resources.limits.memroy: 'memroy' is no resource; cpu, memory, ephemeral-storage"],
    ),
    "a quantity that is none": (
        {"podTemplate": trainer(resources={"limits": {"memory": "4 GB"}})},
        [f"{T}.spec.containers[0].resources.limits.memory: '4 GB' is not a quantity; write one as in"],
    ),
    "a quantity in the resources": (
        {"resources": {"limits": {"memory": "4GB"}}},
        ["spec.training.resources.limits.memory: '4GB' is not a quantity"],
    ),
    "a request above its limit": (
        {"resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}},
        ["spec.training.resources.requests.memory: more than the limit"],
    ),
    "a label that is none": (
        {"podTemplate": {"metadata": {"labels": {"team": "a b"}}}},
        [f"{T}.metadata.labels.team: 'a b' is not a label's value"],
    ),
    "a label that is too long": (
        {"podTemplate": {"metadata": {"labels": {"team": "a" * 64}}}},
        [f"{T}.metadata.labels.team: '{'a' * 64}' is not a label's value: at most 63"],
    ),
    "a volume's name": (
        {"podTemplate": pods(volumes=[{"name": "Not_A_Name", "emptyDir": {}}])},
        [f"{T}.spec.volumes[0].name: 'Not_A_Name' is not a DNS label"],
    ),
    "a volume that is not there": (
        {"podTemplate": trainer(volumeMounts=[{"name": "cache", "mountPath": "/cache"}])},
        [f"{T}.spec.containers[0].volumeMounts[0].name: there is no volume 'cache'"],
    ),
    "a container without an image": (
        {"podTemplate": pods(containers=[{"name": "proxy"}])},
        [f"{T}.spec.containers[0].image: missing"],
    ),
    "a field that the operator sets": (
        {"podTemplate": pods(restartPolicy="Always")},
        [f"{T}.spec.restartPolicy: remove it"],
    ),
    "a queue": ({"queueName": "team a"}, ["spec.training.queueName: 'team a' is not a label's value"]),
}


@pytest.mark.parametrize("sentence", TRAINING)
def test_what_a_cluster_refuses_of_training_is_said(sentence: str) -> None:
    training, expected = TRAINING[sentence]
    found = problems(training=training)
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(sorted(found), expected, strict=True)), found


#: the sentence → other fields of the spec, what is said
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "servers": (
        {"serving": {"podTemplate": pods(tolerations=[{"key": "gpu", "operator": "Is"}])}},
        "spec.serving.podTemplate.spec.tolerations[0].operator: 'Is' is not known",
    ),
    "resources of servers": (
        {"serving": {"resources": {"limits": {"memroy": "4Gi"}}}},
        "spec.serving.resources.limits.memroy: 'memroy' is no resource",
    ),
    "an address of this machine beside storage of a cluster": (
        {"storage": {"uri": "pvc://models/desk"}, "baseModel": {"uri": "./base"}},
        "spec.baseModel.uri: './base' is a path of one machine",
    ),
    "an account": ({"serviceAccountName": "Trainer_1"}, "spec.serviceAccountName: 'Trainer_1' is not the name of"),
    "a Secret": (
        {"credentials": [{"secretRef": {"name": "hub token"}}]},
        "spec.credentials[0].secretRef.name: 'hub token' is not the name of an object",
    ),
}


@pytest.mark.parametrize("sentence", OTHERS)
def test_what_a_cluster_refuses_elsewhere_is_said(sentence: str) -> None:
    spec, start = OTHERS[sentence]
    assert any(line.startswith(start) for line in problems(**spec)), problems(**spec)


ACCEPTED: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "much": {
        "serviceAccountName": "trainer.team",
        "training": {
            "resources": {"limits": {"cpu": 4, "memory": "8Gi"}, "requests": {"cpu": 0.5}},
            "queueName": "team-a",
            "podTemplates": {"gpu": pods(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}])},
            "podTemplate": {
                "metadata": {"labels": {"team.example/cost": "A_1.b"}, "annotations": {"note": "any text at all"}},
                "spec": {
                    "nodeSelector": {"pool": "gpu"},
                    "schedulerName": "gangs",
                    "priorityClassName": "high",
                    "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
                    "tolerations": [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
                    "containers": [
                        {
                            "name": "trainer",
                            "env": [{"name": "A", "value": "1"}],
                            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                        },
                        {"name": "proxy", "image": "proxy:1", "ports": [{"containerPort": 80}]},
                    ],
                },
            },
        },
        "serving": {"replicas": 2, "podTemplate": pods(priorityClassName="high"), "resources": {"limits": {"cpu": 2}}},
    },
}


@pytest.mark.parametrize("sentence", ACCEPTED)
def test_what_a_cluster_takes_is_no_problem(sentence: str) -> None:
    assert problems(**ACCEPTED[sentence]) == []
