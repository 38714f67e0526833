"""Each situation in which a pod cannot go on has one reason, and a message that says what to change."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.blocking import of_job, of_pods, out_of_memory

GPU = "nvidia.com/gpu"


def pod(*, phase="Pending", waiting=None, terminated=None, scheduled=None, init=False, memory="2Gi"):
    """A stage pod with one container in the given state."""
    state = {"waiting": waiting} if waiting else {"terminated": terminated} if terminated else {"running": {}}
    containers = [{"name": "stage", "image": "trainer:1", "state": state}]
    status = {"phase": phase, ("initContainerStatuses" if init else "containerStatuses"): containers}
    if scheduled:
        status["conditions"] = [{"type": "PodScheduled", "status": "False", **scheduled}]
    spec = {"containers": [{"name": "stage", "resources": {"limits": {"memory": memory}}}]}
    return {"kind": "Pod", "metadata": {"name": "m-baseline-1234-x"}, "spec": spec, "status": status}


BLOCKED = {
    "no node has a free GPU": (
        pod(
            scheduled={"reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
        ),
        "NoGPUFree",
        "waits for a free nvidia.com/gpu",
    ),
    "no node has the memory": (
        pod(scheduled={"reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient memory."}),
        "Unschedulable",
        "3 Insufficient memory",
    ),
    "a scheduling gate holds it": (
        pod(scheduled={"reason": "SchedulingGated", "message": "gated"}),
        "Queued",
        "scheduling gate",
    ),
    "the image cannot be pulled": (
        pod(waiting={"reason": "ImagePullBackOff", "message": "not found"}),
        "ImageNotPulled",
        "image trainer:1 cannot be pulled: not found",
    ),
    "the image's name is wrong, without a message": (
        pod(waiting={"reason": "InvalidImageName"}),
        "ImageNotPulled",
        "InvalidImageName",
    ),
    "a Secret is missing": (
        pod(waiting={"reason": "CreateContainerConfigError", "message": 'secret "hub-token" not found'}),
        "SecretMissing",
        "Secret 'hub-token', named in spec.credentials or a podTemplate, does not exist",
    ),
    "the container cannot be made": (
        pod(waiting={"reason": "CreateContainerError", "message": "no such user"}),
        "PodNotStarted",
        "no such user",
    ),
    "an init container of a podTemplate waits": (
        pod(waiting={"reason": "ErrImagePull", "message": "denied"}, init=True),
        "ImageNotPulled",
        "denied",
    ),
}


@pytest.mark.parametrize("situation", BLOCKED)
def test_a_pod_that_cannot_go_on_says_why(situation):
    item, reason, part = BLOCKED[situation]
    found = of_pods([pod(phase="Running"), item], GPU)
    assert found.reason == reason
    assert part in found.message


def test_pods_that_run_start_or_have_ended_block_nothing():
    starting = pod(waiting={"reason": "ContainerCreating"})
    assert of_pods([pod(phase="Running"), pod(phase="Succeeded"), starting], GPU) is None


def test_a_job_in_a_queue_waits_for_admission():
    job = {"kind": "Job", "metadata": {"name": "j", "labels": {"kueue.x-k8s.io/queue-name": "team-a"}}}
    assert of_job(job | {"spec": {"suspend": True}}).message == "Job j waits for admission by queue 'team-a'"
    assert of_job(job | {"spec": {"suspend": False}}) is None
    assert of_job(None) is None


def test_memory_that_ran_out_names_limit_and_settings():
    killed = pod(phase="Failed", terminated={"reason": "OOMKilled", "exitCode": 137})
    message = out_of_memory([pod(phase="Running"), killed])
    assert message.startswith("ran out of memory (limit 2Gi); raise spec.training.resources.limits.memory")
    assert out_of_memory([pod(phase="Failed", terminated={"reason": "Error"})]) is None
