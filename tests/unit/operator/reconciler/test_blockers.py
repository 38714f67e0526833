"""Each situation in which a pod cannot go on has one reason, and a message that says what to change."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.blockers import (
    deletion_stuck,
    not_admitted,
    objects_needing_events,
    pods_blocked,
    retrying,
)
from multitask_operator.reconciler.refusals import next_step, write_rejected
from multitask_operator.reconciler.state.accessors import parse_time
from multitask_operator.reconciler.state.cluster_state import RejectedWrite
from multitask_operator.reconciler.state.pods import out_of_memory
from multitask_operator.reconciler.state.stage_job import StageJob

GPU = "nvidia.com/gpu"


def pod(*, phase="Pending", waiting=None, terminated=None, scheduled=None, init=False, memory="2Gi"):
    """A stage pod with one container in the given state."""
    state = {"waiting": waiting} if waiting else {"terminated": terminated} if terminated else {"running": {}}
    containers = [{"name": "trainer", "image": "trainer:1", "state": state}]
    status = {"phase": phase, ("initContainerStatuses" if init else "containerStatuses"): containers}
    if scheduled:
        status["conditions"] = [{"type": "PodScheduled", "status": "False", **scheduled}]
    spec = {"containers": [{"name": "trainer", "resources": {"limits": {"memory": memory}}}]}
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
    "it has a scheduling gate": (
        pod(scheduled={"reason": "SchedulingGated", "message": "gated"}),
        "Gated",
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
    blocker = pods_blocked([pod(phase="Running"), item], GPU)
    assert blocker.reason == reason
    assert part in blocker.message


def test_pods_that_run_start_or_have_ended_block_nothing():
    starting = pod(waiting={"reason": "ContainerCreating"})
    assert pods_blocked([pod(phase="Running"), pod(phase="Succeeded"), starting], GPU) is None


REJECTED = {
    "a quota of objects": ('jobs.batch "x" is forbidden: exceeded quota: team', 403, "raise the quota"),
    "a missing permission": (
        'jobs.batch is forbidden: User "o" cannot create resource "jobs"',
        403,
        "give the operator's role this permission",
    ),
    "a webhook that refuses": (
        'admission webhook "policy.team.example" denied the request: no cost centre, exceeded quota or not',
        403,
        "meet that policy with podTemplate in spec.training or spec.serving, or ask whoever set it",
    ),
    "a policy of the cluster": (
        "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'costs' with binding 'costs' denied request: no team",
        422,
        "meet that policy with podTemplate",
    ),
    "a webhook that does not answer": (
        'Internal error occurred: failed calling webhook "policy.team.example": connection refused',
        500,
        "whoever runs that webhook has to make it answer",
    ),
    "a security level": (
        'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        403,
        "change what it names in podTemplate, or the namespace's level",
    ),
    "a limit range": (
        'pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
        403,
        "change resources in spec.training or spec.serving, or the LimitRange",
    ),
    "a field that never changes": (
        'Deployment.apps "x" is invalid: spec.selector: Invalid value: {}: field is immutable',
        422,
        "delete Job desk-resolve-1, which is then made again",
    ),
    "a namespace that goes": (
        'jobs.batch "x" is forbidden: unable to create new content in namespace team because it is being terminated',
        403,
        "the namespace is being deleted",
    ),
    "a kind that is not there": (
        "the server could not find the requested resource",
        404,
        "install what brings the kind",
    ),
    "an object of another owner": (
        "there is one of this name that does not belong to desk",
        409,
        "delete or rename it",
    ),
}


@pytest.mark.parametrize("situation", REJECTED)
def test_a_rejected_write_names_the_object_and_what_to_change(situation):
    message, code, advice = REJECTED[situation]
    blocker = write_rejected(RejectedWrite("create", "Job", "desk-resolve-1", code, "Forbidden", message))
    assert blocker.reason == "WriteRefused"
    assert blocker.message.startswith(f"create Job desk-resolve-1: {message}; {advice}")
    assert next_step(blocker.message).startswith(advice)


def test_a_long_refusal_keeps_what_to_do():
    rejected = RejectedWrite("create", "Job", "j", 403, "Forbidden", f"exceeded quota: {'x' * 2000}")
    assert write_rejected(rejected).message.endswith(
        "; raise the quota, or wait until other work has ended: the operator tries again by itself"
    )


def test_a_job_in_a_queue_waits_for_admission():
    job = {"kind": "Job", "metadata": {"name": "j", "labels": {"kueue.x-k8s.io/queue-name": "team-a"}}}
    assert not_admitted(job | {"spec": {"suspend": True}}).message == "Job j waits for admission by queue 'team-a'"
    assert not_admitted(job | {"spec": {"suspend": False}}) is None
    assert not_admitted(None) is None


def test_memory_that_ran_out_names_limit_and_settings():
    killed = pod(phase="Failed", terminated={"reason": "OOMKilled", "exitCode": 137})
    message = out_of_memory([pod(phase="Running"), killed])
    assert message.startswith("ran out of memory (limit 2Gi); raise spec.training.resources.limits.memory")
    assert out_of_memory([pod(phase="Failed", terminated={"reason": "Error"})]) is None


def attempt(second, reason, node=None):
    """A pod that was made in that second of a minute and ended for ``reason``."""
    made = pod(phase="Failed", terminated={"reason": reason, "exitCode": 137 if reason == "OOMKilled" else 1})
    made["metadata"]["creationTimestamp"] = f"2026-01-02T03:04:{second:02}Z"
    if node is not None:
        made["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": node}
    return made


ATTEMPTS = {
    "memory ran out, and then it failed for another reason": ((attempt(1, "OOMKilled"), attempt(20, "Error")), False),
    "the same, and the API lists the newest first": ((attempt(20, "Error"), attempt(1, "OOMKilled")), False),
    "it failed for another reason, and then memory ran out": ((attempt(20, "OOMKilled"), attempt(1, "Error")), True),
    "memory ran out on one node, which ended the other's pod": (
        (attempt(2, "Error", "1"), attempt(1, "OOMKilled", "0")),
        True,
    ),
    "memory ran out on one node, and then both failed for another reason": (
        (attempt(1, "OOMKilled", "0"), attempt(1, "Error", "1"), attempt(20, "Error", "0"), attempt(20, "Error", "1")),
        False,
    ),
}


@pytest.mark.parametrize("situation", ATTEMPTS)
def test_only_memory_that_ran_out_in_the_last_attempt_is_named(situation):
    pods, is_named = ATTEMPTS[situation]
    assert (out_of_memory(pods) is not None) is is_named
    assert ("ran out of memory" in retrying(open_job(*pods, failed=1)).message) is is_named


def open_job(*pods, **status):
    """An open Job with these pods."""
    job = {
        "kind": "Job",
        "metadata": {"name": "j", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"backoffLimit": 3},
    }
    return StageJob("j", "baseline", (("baseline/x", "d"),), {}, job | {"status": status}, pods)


def test_a_program_that_was_killed_between_attempts_is_named_with_its_last_line():
    crashed = pod(phase="Failed", terminated={"reason": "Error", "exitCode": 139, "message": "a\nSegmentation fault\n"})
    blocker = retrying(open_job(crashed, failed=1))
    assert blocker.message == (
        "baseline/x: its program ended with exit code 139: Segmentation fault; its Job tries again by itself"
        " (attempt 2 of 4)"
    )


@pytest.mark.parametrize(("failed", "attempt"), [(1, 2), (2, 2), (4, 3), (6, 4), (7, 4)])
def test_the_pods_of_several_nodes_that_failed_together_are_one_attempt(failed, attempt):
    crashed = pod(phase="Failed", terminated={"reason": "Error", "exitCode": 75})
    item = open_job(crashed, failed=failed)
    item.job["spec"] |= {"backoffLimit": 2 * 3, "completions": 2}
    assert retrying(item).message.endswith(f"(attempt {attempt} of 4)")


def test_an_attempt_that_runs_and_one_that_was_evicted_do_not_count_as_failed():
    crashed = pod(phase="Failed", terminated={"reason": "Error", "exitCode": 139})
    evicted = pod(phase="Failed", terminated={"reason": "Error", "exitCode": 143})
    evicted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    assert retrying(open_job(crashed, pod(phase="Running"))) is None
    assert retrying(open_job(evicted)) is None


def test_a_deleted_job_with_a_finalizer_is_named_once_it_should_be_gone():
    item = open_job()
    item.job["metadata"] |= {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/hold"]}
    began = parse_time("2026-01-02T03:04:05Z")
    assert deletion_stuck(item, began + 1) is None
    blocker = deletion_stuck(item, began + 60)
    assert (blocker.reason, "Job j was deleted at" in blocker.message) == ("NotDeleted", True)
    assert blocker.message.endswith("still exists, finalizers: example.com/hold")


def test_events_are_needed_only_about_what_shows_nothing():
    starting = pod(waiting={"reason": "ContainerCreating"})
    without = open_job()
    assert objects_needing_events(without) == (without.job,)
    assert objects_needing_events(open_job(starting)) == (starting,)
    assert objects_needing_events(open_job(pod(waiting={"reason": "ErrImagePull"}))) == ()
    assert objects_needing_events(open_job(pod(phase="Running"))) == ()
    assert objects_needing_events(open_job(pod(phase="Failed", terminated={"exitCode": 1}))) == ()
