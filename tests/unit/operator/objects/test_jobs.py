"""Jobs and the Services of those on several nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multitask_api.cluster import POD_SETTINGS_ANNOTATION
from multitask_operator.objects.jobs import pod_group, stage_job, stage_service
from multitask_operator.objects.pods import pod_template
from multitask_operator.objects.stage_jobs import StageJobSpec
from support.object_samples import OWNER, SETTINGS, job_spec, resource


def job(kind="baseline", **training):
    desk = resource(training={"gpusPerNode": 0, **training})
    return stage_job(OWNER, desk.spec, job_spec(desk, kind), SETTINGS)


def service(kind, **training):
    desk = resource(training={"gpusPerNode": 0, **training})
    return stage_service(OWNER, desk.spec, job_spec(desk, kind))


def test_a_job():
    desk = resource()
    baseline = job_spec(desk, "baseline")
    (order,) = baseline.orders
    document = job()
    metadata = document.pop("metadata")
    annotations = metadata["annotations"]
    assert (metadata["name"], metadata["namespace"]) == (f"desk-baseline-{order.digest[:8]}", "team-a")
    assert metadata["ownerReferences"][0]["uid"] == OWNER.uid
    assert annotations.pop(POD_SETTINGS_ANNOTATION)
    assert annotations == {"multitask.dev/stage": order.stage, "multitask.dev/digest": order.digest}
    assert document == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {
            "backoffLimit": 3,
            "ttlSecondsAfterFinished": 86400,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [2]},
                    },
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "podReplacementPolicy": "Failed",
            "template": pod_template(OWNER, desk.spec, baseline, SETTINGS),
        },
    }


def test_a_clean_up_fails_three_times_at_most_ends_within_hours_and_waits_for_no_queue():
    made = job("clean-up", queueName="team-a", gpusPerNode=8, nodes=2)
    assert (made["spec"]["backoffLimit"], made["spec"]["activeDeadlineSeconds"]) == (2, 6 * 3600)
    assert "suspend" not in made["spec"]
    assert "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]
    assert "activeDeadlineSeconds" not in job("resolve")["spec"]


def test_a_job_of_several_stages_has_the_time_of_all_of_them():
    desk = resource(training={"activeDeadlineSeconds": 600})
    (order,) = job_spec(desk, "baseline").orders
    others = [order.model_copy(update={"digest": digest}) for digest in "abc"]
    for orders, seconds in (([order], 600), (others, 1800)):
        made = stage_job(OWNER, desk.spec, StageJobSpec.of_stages(OWNER, 1, orders), SETTINGS)
        assert made["spec"]["activeDeadlineSeconds"] == seconds


def test_a_queue_admits_the_job():
    made = job(queueName="team-a")
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert made["spec"]["suspend"] is True
    assert "suspend" not in job()["spec"]


def test_training_on_several_nodes_is_an_indexed_job_below_a_headless_service():
    made, below = job("mixture", nodes=3), service("mixture", nodes=3)
    name = made["metadata"]["name"]
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimit"] == 9
    assert spec["template"]["spec"]["subdomain"] == name
    assert f"--master={name}-0.{name}:29400" in spec["template"]["spec"]["containers"][0]["command"]
    assert below is not None
    assert below["metadata"]["name"] == name
    assert below["spec"] == {
        "clusterIP": "None",
        "selector": {"batch.kubernetes.io/job-name": name},
        "publishNotReadyAddresses": True,
        "ports": [{"name": "master", "port": 29400, "targetPort": 29400, "protocol": "TCP"}],
    }


def test_pods_that_waited_in_vain_for_the_others_are_no_failure():
    """Else two models that hold half of their GPUs each would use up each other's attempts."""
    ignored = {"action": "Ignore", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [76]}}
    assert job("mixture", nodes=2)["spec"]["podFailurePolicy"]["rules"][-1] == ignored
    assert ignored not in job("mixture")["spec"]["podFailurePolicy"]["rules"]


@pytest.mark.parametrize(
    ("scheduling", "api_version", "place"),
    [
        ("Coscheduling", "scheduling.x-k8s.io/v1alpha1", ("labels", "scheduling.x-k8s.io/pod-group")),
        ("Volcano", "scheduling.volcano.sh/v1beta1", ("annotations", "scheduling.k8s.io/group-name")),
    ],
)
def test_pods_on_several_nodes_are_scheduled_together_by_a_pod_group(scheduling, api_version, place):
    desk, settings = resource(training={"gpusPerNode": 1, "nodes": 3}), replace(SETTINGS, gang_scheduling=scheduling)
    mixture, evaluate = job_spec(desk, "mixture"), job_spec(desk, "evaluate")
    group = pod_group(OWNER, desk.spec, mixture, settings)
    assert (group["apiVersion"], group["kind"], group["spec"]) == (api_version, "PodGroup", {"minMember": 3})
    assert group["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    made = stage_job(OWNER, desk.spec, mixture, settings)
    part, name = place
    assert made["spec"]["template"]["metadata"][part][name] == group["metadata"]["name"]
    assert made["spec"]["template"]["spec"].get("schedulerName") == ("volcano" if scheduling == "Volcano" else None)
    assert pod_group(OWNER, desk.spec, evaluate, settings) is None
    assert name not in stage_job(OWNER, desk.spec, evaluate, settings)["spec"]["template"]["metadata"][part]
    assert pod_group(OWNER, desk.spec, mixture, SETTINGS) is None


@pytest.mark.parametrize("kind", ["resolve", "clean-up", "prepare", "base", "filter", "bundle", "evaluate", "export"])
def test_what_does_not_train_is_one_pod(kind):
    assert "completionMode" not in job(kind, nodes=3)["spec"]
    assert service(kind, nodes=3) is None
