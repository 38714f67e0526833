"""What a pod asks a node for, and the threads that follow from it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from multitask_operator.objects.errors import ResourcesError
from multitask_operator.objects.pod_layers import threads
from multitask_operator.objects.pods import PodSettings, pod_template
from multitask_operator.objects.resources import container_resources, gpus, pods_per_job, quantity
from support.object_samples import OWNER, job_spec, resource

GPU = "nvidia.com/gpu"
DEFAULT = {"cpu": "1", "memory": "1Gi"}
SMALL = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
LARGE = {"limits": {"cpu": 32, "memory": "128Gi", "example.com/rdma": 1}}
PRETRAINED = {"pretraining": {"maxSteps": 10}}


def spec(more=None, **training):
    return resource(training={"gpusPerNode": 0, **training}, **(more or {})).spec


# the sentence, training, kind, the container's resources
CASES = [
    ("a stage that looks at data fits anywhere", {}, "prepare", SMALL),
    (
        "whatever training asks for",
        {"gpusPerNode": 8, "resources": {"limits": {"cpu": 64}}},
        "filter",
        SMALL,
    ),
    ("training asks for a core", {}, "baseline", {"requests": DEFAULT}),
    (
        "a limit is a request too",
        {"resources": {"limits": {"cpu": "4"}}},
        "baseline",
        {"requests": {"memory": "1Gi"}, "limits": {"cpu": "4"}},
    ),
    (
        "what the spec requests wins",
        {"resources": {"requests": {"cpu": "500m", "example.com/rdma": 1}}},
        "mixture",
        {"requests": {"cpu": "500m", "memory": "1Gi", "example.com/rdma": 1}},
    ),
    (
        "training gets all GPUs",
        {"gpusPerNode": 4, "resources": {"limits": {"memory": "64Gi"}}},
        "high-resource",
        {"requests": {"cpu": "1"}, "limits": {"memory": "64Gi"}},
        "4",
    ),
    ("so does evaluation, with an engine on each", {"gpusPerNode": 4}, "evaluate", {"requests": DEFAULT}, "4"),
    ("an export gets one", {"gpusPerNode": 4}, "export", {"requests": DEFAULT}, "1"),
    ("a bundle needs none", {"gpusPerNode": 4}, "bundle", {"requests": DEFAULT}),
    ("a base that is only fetched needs none", {"gpusPerNode": 4}, "base", {"requests": DEFAULT}),
    (
        "without a GPU it takes memory and a CPU of what is meant for a node with GPUs",
        {"gpusPerNode": 4, "resources": LARGE},
        "bundle",
        {"requests": {"cpu": "1"}, "limits": {"cpu": 32, "memory": "128Gi"}},
    ),
    (
        "also where little is given",
        {"gpusPerNode": 4, "resources": {"limits": {"cpu": "500m"}, "requests": {"memory": "2Gi", "cpu": "250m"}}},
        "base",
        {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"cpu": "500m"}},
    ),
    (
        "without any GPU all of it",
        {"resources": LARGE},
        "bundle",
        {"requests": {}, **LARGE},
    ),
    (
        "claims of devices are passed on",
        {"gpusPerNode": 1, "resources": {"claims": [{"name": "gpu"}]}},
        "baseline",
        {"requests": DEFAULT, "claims": [{"name": "gpu"}]},
        "1",
    ),
    (
        "but not where no GPU is used",
        {"gpusPerNode": 1, "resources": {"claims": [{"name": "gpu"}]}},
        "bundle",
        {"requests": DEFAULT},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[row[0] for row in CASES])
def test_resources(case):
    _, training, kind, expected, *count = case
    expected = {name: amounts for name, amounts in expected.items() if amounts}
    desk = resource(training={"gpusPerNode": 0, **training})
    assert container_resources(desk.spec, kind, GPU) == expected
    if count:
        expected = expected | {"limits": expected.get("limits", {}) | {GPU: count[0]}}
    (container,) = pod_template(OWNER, desk.spec, job_spec(desk, kind), PodSettings("t"))["spec"]["containers"]
    assert container["resources"] == expected


# the kind, what else sets its resources → threads
@pytest.mark.parametrize(
    ("kind", "templates", "expected"),
    [
        ("baseline", {}, 4),
        ("baseline", {"gpu": "16"}, 8),
        ("mixture", {"gpu": "16", "mixture": "6"}, 3),
        ("bundle", {"gpu": "16"}, 8),
    ],
)
def test_threads_follow_from_the_cpus_that_a_pod_template_sets(kind, templates, expected):
    given = {
        name: {"spec": {"containers": [{"name": "trainer", "resources": {"limits": {"cpu": cpus}}}]}}
        for name, cpus in templates.items()
    }
    assert threads(spec(gpusPerNode=2, resources={"limits": {"cpu": 8}}, podTemplates=given), kind) == expected


def test_a_gpu_has_the_name_that_the_installation_gives_it():
    desk = resource(training={"gpusPerNode": 2})
    pod = pod_template(OWNER, desk.spec, job_spec(desk, "mixture"), PodSettings("t", gpu_resource="amd.com/gpu"))
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"amd.com/gpu": "2"}


# training, more of the spec, kind → GPUs of a pod, pods
SHARES = [
    ({"gpusPerNode": 4, "nodes": 2}, {}, "mixture", 4, 2),
    ({"gpusPerNode": 0, "nodes": 2}, {}, "mixture", 0, 2),
    ({"gpusPerNode": 4, "nodes": 2}, {}, "base", 0, 1),
    ({"gpusPerNode": 4, "nodes": 2}, PRETRAINED, "base", 4, 2),
    ({"gpusPerNode": 4, "nodes": 2}, {}, "evaluate", 4, 1),
    ({"gpusPerNode": 0, "nodes": 2}, {}, "evaluate", 0, 1),
    ({"gpusPerNode": 4, "nodes": 2}, {}, "export", 1, 1),
    ({"gpusPerNode": 4, "nodes": 2}, {}, "prepare", 0, 1),
    ({"gpusPerNode": 4, "nodes": 2}, {}, "resolve", 0, 1),
    ({"gpusPerNode": 4, "nodes": 2}, {}, "clean-up", 0, 1),
]


@pytest.mark.parametrize(("training", "more", "kind", "each", "pods"), SHARES)
def test_training_shares_its_work_over_all_nodes_and_evaluation_over_one(training, more, kind, each, pods):
    given_spec = spec(more, **training)
    assert (gpus(given_spec, kind), pods_per_job(given_spec, kind)) == (each, pods)


# resources, GPUs, kind → threads
THREADS = [
    ({}, 0, "baseline", 1),
    ({"requests": {"cpu": 3}}, 0, "baseline", 3),
    ({"requests": {"cpu": 3}, "limits": {"cpu": "8"}}, 0, "baseline", 8),
    ({"limits": {"cpu": "2500m"}}, 0, "baseline", 2),
    ({"limits": {"cpu": "300m"}}, 0, "baseline", 1),
    ({"limits": {"cpu": "32"}}, 4, "mixture", 8),
    ({"limits": {"cpu": "32"}}, 4, "evaluate", 8),
    ({"limits": {"cpu": "32"}}, 4, "export", 32),
    ({"limits": {"cpu": "32"}}, 4, "prepare", 1),
]


@pytest.mark.parametrize(("given", "count", "kind", "expected"), THREADS)
def test_threads_follow_from_the_cpus(given, count, kind, expected):
    assert threads(spec(gpusPerNode=count, resources=given), kind) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), (2, 2), (0.5, "0.5"), ("100m", "0.1"), ("1.5Gi", 1610612736), ("2k", 2000), ("1e3", 1000), ("3E", 3e18)],
)
def test_quantities(text, number):
    assert quantity(text, "x") == Decimal(str(number))


ERRORS = [
    ({"limit": {}}, "spec.training.resources.limit: not known; use requests, limits or claims"),
    ({"limits": ["cpu"]}, "spec.training.resources.limits: expected a mapping"),
    ({"limits": {"cpu": "2 cores"}}, "spec.training.resources.limits.cpu: '2 cores' is not a quantity; write one"),
    ({"limits": {"cpu": True}}, "spec.training.resources.limits.cpu: True is not a quantity"),
    ({"requests": {"memory": "-1Gi"}}, "spec.training.resources.requests.memory: '-1Gi' is below zero"),
    ({"limits": {GPU: 2}}, "spec.training.resources.limits.nvidia.com/gpu: remove it; spec.training.gpusPerNode"),
]


@pytest.mark.parametrize(("given", "message"), ERRORS)
def test_malformed_resources_are_rejected_by_name(given, message):
    with pytest.raises(ResourcesError) as raised:
        container_resources(spec(resources=given), "baseline", GPU)
    assert str(raised.value).startswith(message)
