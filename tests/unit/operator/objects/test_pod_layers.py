"""What people add to stage pods: whose additions reach which pod, and in which order."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import POD_SETTINGS_ANNOTATION
from multitask_operator.objects.errors import PodTemplateError
from multitask_operator.objects.jobs import stage_job
from multitask_operator.objects.pod_layers import pod_layers
from multitask_operator.objects.pods import PodSettings, pod_template
from multitask_operator.settings import PodDefaults, read_settings
from support.object_samples import OWNER, job_spec, resource

GPU_NODES = {
    "spec": {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}
}
KINDS = ("resolve", "prepare", "base", "baseline", "filter", "high-resource", "mixture", "bundle", "evaluate", "export")


def installation(**stage_pods):
    """The installation's additions, as its chart passes them."""
    environment = {"MULTITASK_TRAINER_IMAGE": "t:1", "MULTITASK_STAGE_PODS": json.dumps(stage_pods)}
    return read_settings({}, environment).stage_pods


def pod(kind, training=None, defaults=None):
    desk = resource(training={"gpusPerNode": 1, **(training or {})})
    return pod_template(OWNER, desk.spec, job_spec(desk, kind), PodSettings("t:1", defaults=defaults or PodDefaults()))


def labelled(value):
    """A template that says where it comes from, in a label that each overrides and in one of its own."""
    return {"metadata": {"labels": {"last": value, value: "here"}}}


@pytest.mark.parametrize("kind", [*KINDS, "clean-up"])
@pytest.mark.parametrize(("count", "pretraining"), [(0, False), (1, False), (2, True)])
def test_only_pods_that_use_a_gpu_go_to_nodes_with_gpus(kind, count, pretraining):
    more = {"pretraining": {"maxSteps": 10}} if pretraining else {}
    desk = resource(training={"gpusPerNode": count, "podTemplates": {"gpu": GPU_NODES}}, **more)
    spec = pod_template(OWNER, desk.spec, job_spec(desk, kind), PodSettings("t:1"))["spec"]
    uses_gpu = "nvidia.com/gpu" in spec["containers"][0]["resources"].get("limits", {})
    with_gpu = {"baseline", "high-resource", "mixture", "evaluate", "export", *(["base"] if pretraining else [])}
    assert uses_gpu is (kind in with_gpu and count > 0)
    assert ("nodeSelector" in spec) is ("tolerations" in spec) is uses_gpu


ORDER = {
    "podTemplate": labelled("all"),
    "podTemplates": {"cpu": labelled("cpu"), "gpu": labelled("gpu"), "highResource": labelled("stage")},
}
# kind → the labels of the installation and then of the model, in the order in which they are applied
SEQUENCES = [
    ("resolve", ("all", "cpu")),
    ("bundle", ("all", "cpu")),
    ("baseline", ("all", "gpu")),
    ("high-resource", ("all", "gpu", "stage")),
]


@pytest.mark.parametrize(("kind", "names"), SEQUENCES)
def test_the_model_overrides_the_installation_and_the_narrower_the_wider(kind, names):
    ours = json.loads(json.dumps(ORDER).replace('all"', 'p-all"').replace('pu"', 'pu-p"').replace('stage"', 'stage-p"'))
    ours["podTemplates"] = {"cpu": labelled("p-cpu"), "gpu": labelled("p-gpu"), "highResource": labelled("p-stage")}
    desk = resource(training={"gpusPerNode": 1, **ORDER})
    layers = pod_layers(desk.spec, kind, installation(**ours))
    applied = [layer.given["metadata"]["labels"]["last"] for layer in layers]
    assert applied == [*(f"p-{name}" for name in names), *names]
    labels = pod(kind, ORDER, installation(**ours))["metadata"]["labels"]
    assert labels["last"] == names[-1]
    assert labels.keys() >= {*names, *(f"p-{name}" for name in names)}


def test_the_platform_team_gives_every_model_proxy_certificates_tolerations_and_a_priority():
    trainer = {
        "name": "trainer",
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/own"}],
    }
    common = {
        "metadata": {"labels": {"cost-center": "ml"}},
        "spec": {
            "priorityClassName": "batch",
            "containers": [trainer],
            "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        },
    }
    made = pod("mixture", {"podTemplate": {"metadata": {"labels": {"team": "a"}}}}, installation(podTemplate=common))
    (container,) = made["spec"]["containers"]
    assert made["spec"]["priorityClassName"] == "batch"
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container["env"]
    assert {"name": "ca", "mountPath": "/etc/ssl/own"} in container["volumeMounts"]
    assert made["metadata"]["labels"].items() >= {"cost-center": "ml", "team": "a"}.items()


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"podTemplate": {"spec": {"restartPolicy": "Always"}}}, "the installation's stagePods.podTemplate.spec."),
        ({"podTemplates": {"gpu": {"spec": []}}}, "the installation's stagePods.podTemplates.gpu.spec: expected"),
    ],
)
def test_an_error_of_the_installation_is_not_blamed_on_the_model(given, place):
    with pytest.raises(PodTemplateError) as raised:
        pod("mixture", defaults=installation(**given))
    assert str(raised.value).startswith(place)


def test_an_error_names_the_template_it_is_in():
    with pytest.raises(PodTemplateError) as raised:
        pod("high-resource", {"podTemplates": {"highResource": {"spec": {"hostname": "x"}}}})
    assert str(raised.value).startswith("spec.training.podTemplates.highResource.spec.hostname: remove it")


# -- the Job itself ----------------------------------------------------------------------------------------------------

QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"


def job(kind, training=None, defaults=None):
    desk = resource(training={"gpusPerNode": 1, **(training or {})})
    return stage_job(OWNER, desk.spec, job_spec(desk, kind), PodSettings("t:1", defaults=defaults or PodDefaults()))


def test_labels_and_annotations_of_the_pods_are_also_the_jobs():
    given = {"metadata": {"labels": {PRIORITY: "high", "team": "a"}, "annotations": {"policy/owner": "x"}}}
    made = job("mixture", {"podTemplate": given, "queueName": "team-a"})["metadata"]
    assert made["labels"].items() >= {PRIORITY: "high", "team": "a", QUEUE: "team-a"}.items()
    assert made["labels"]["multitask.dev/kind"] == "mixture"
    assert made["annotations"].keys() == {
        "policy/owner",
        "multitask.dev/stage",
        "multitask.dev/digest",
        POD_SETTINGS_ANNOTATION,
    }


def test_the_installation_may_name_the_queue_of_all_models_but_a_clean_up_waits_for_none():
    defaults = installation(podTemplate={"metadata": {"labels": {QUEUE: "shared"}}})
    made = job("mixture", defaults=defaults)
    assert (made["metadata"]["labels"][QUEUE], made["spec"]["suspend"]) == ("shared", True)
    assert job("mixture", {"queueName": "own"}, defaults)["metadata"]["labels"][QUEUE] == "own"
    clean_up = job("clean-up", defaults=defaults)
    assert "suspend" not in clean_up["spec"]
    assert QUEUE not in clean_up["metadata"]["labels"] | clean_up["spec"]["template"]["metadata"]["labels"]
