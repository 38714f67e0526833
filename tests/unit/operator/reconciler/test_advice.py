"""What works and is likely to disappoint is told in a condition and an Event."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.training.advice import configuration_warning
from multitask_operator.settings import PodDefaults, Settings
from support.graph_builders import task
from support.object_samples import resource
from support.simulation import Cluster

QUEUE = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "shared"}}}
CLAIMS = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpus"}]}


def selecting(label):
    return {"spec": {"nodeSelector": {label: "x"}}}


# the sentence, training, settings → the reason; None: no warning
CASES = [
    ("one node needs no gang", {"gpusPerNode": 8}, {}, None),
    ("two nodes do", {"nodes": 2}, {}, "NoGangScheduling"),
    ("a queue admits all pods or none", {"nodes": 2, "queueName": "team-a"}, {}, None),
    ("also one that the podTemplate names", {"nodes": 2, "podTemplate": QUEUE}, {}, None),
    ("or the installation", {"nodes": 2}, {"stage_pods": PodDefaults(pod_template=QUEUE)}, None),
    ("so does a scheduler of gangs", {"nodes": 2}, {"gang_scheduling": "Coscheduling"}, None),
    *(
        (f"{label} marks nodes with GPUs", {"podTemplate": selecting(label)}, {}, "GpuNodesForAllStages")
        for label in (
            "cloud.google.com/gke-accelerator",
            "nvidia.com/gpu.product",
            "karpenter.k8s.aws/instance-gpu-name",
            "k8s.amazonaws.com/accelerator",
        )
    ),
    ("for the pods with GPUs it is right", {"podTemplates": {"gpu": selecting("nvidia.com/gpu.product")}}, {}, None),
    ("another vendor's is another label", {"podTemplate": selecting("amd.com/gpu.family")}, {}, None),
    (
        "unless the installation uses it",
        {"podTemplate": selecting("amd.com/gpu.family")},
        {"gpu_resource": "amd.com/gpu"},
        "GpuNodesForAllStages",
    ),
    ("other nodes are the user's choice", {"podTemplate": selecting("pool")}, {}, None),
    (
        "devices are claimed for training on the CPU",
        {"gpusPerNode": 0, "podTemplate": {"spec": CLAIMS}},
        {},
        "DeviceClaimsNotUsed",
    ),
    ("devices are claimed", {"podTemplate": {"spec": CLAIMS}}, {}, None),
    ("a malformed template is told elsewhere", {"podTemplate": {"spec": []}}, {}, None),
]


@pytest.mark.parametrize(("sentence", "training", "more", "reason"), CASES, ids=[row[0] for row in CASES])
def test_a_warning(sentence, training, more, reason):
    settings = Settings(trainer_image="t:1", **more)
    warning = configuration_warning(resource(training=training).spec, settings)
    assert (warning.reason if warning else None) == reason


def test_a_warning_is_a_condition_and_an_event_and_goes_with_its_cause():
    cluster = Cluster(task("urgency"), training={"nodes": 2})
    cluster.settle()
    condition = cluster.condition("ConfigurationWarning")
    assert (condition["status"], condition["reason"]) == ("True", "NoGangScheduling")
    assert "training.queueName" in condition["message"]
    assert ("Warning", "NoGangScheduling") in cluster.events
    cluster.edit(task("urgency"), training={"nodes": 1})
    cluster.settle()
    assert "ConfigurationWarning" not in [each["type"] for each in cluster.model["status"]["conditions"]]
