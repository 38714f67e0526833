"""What keeps a Job from running, from the conditions and waiting reasons of Jobs and pods, and what helps. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from multitask_api.types import JsonObject
from multitask_operator.formatting import cut
from multitask_operator.objects.jobs import QUEUE_LABEL
from multitask_operator.objects.resources import resources_setting
from multitask_operator.reconciler.conditions import MESSAGE_BYTES
from multitask_operator.reconciler.state.accessors import created_seconds, parse_time
from multitask_operator.reconciler.state.pods import container_statuses, exit_code, has_running_pod, out_of_memory
from multitask_operator.reconciler.state.stage_job import StageJob

#: Seconds that a Job and its pods have to show something before Events about them are read.
EVENT_DELAY = 5.0
#: Seconds after which a deleted Job that still exists is reported.
DELETION_GRACE_SECONDS = 5.0

#: Reason → what helps, where the message does not say so itself.
REMEDIATION: Mapping[str, str] = {
    "QuotaExceeded": "raise the namespace's quota, lower these or training.maxParallelJobs, or wait until other work"
    " has ended; the Job goes on by itself",
    "PodRefused": "change what the message names; the Job goes on by itself",
    "PodWarning": "change what the message names; the pod goes on by itself",
    "PodNotStarted": "change what the message names; the pod goes on by itself",
    "NotDeleted": "whoever set the finalizer has to remove it; the Job is then created again",
    "NoGPUFree": "wait, free a GPU, or lower training.gpusPerNode (0: the CPU) or training.maxParallelJobs",
    "Unschedulable": "change training.resources, podTemplate or podTemplates, or give the cluster such a node",
    "NotScheduled": "correct schedulerName in training.podTemplate or podTemplates (without it, Kubernetes' own"
    " schedules the pod), or start that scheduler; the pod then goes on by itself",
    "Queued": "wait, or ask the owner of the queue; without training.queueName the Jobs start at once",
    "Gated": "wait, or ask whoever set the gate",
    "ImageNotPulled": "name the registry's Secret in spec.imagePullSecrets; an image's name is corrected in the"
    " operator's installation, and a run that has begun takes it with a new value of the annotation"
    " multitask.dev/refresh",
    "NodeLost": "delete the Node if it is gone for good, or the pod with kubectl delete pod --force; the Job then goes"
    " on elsewhere, from its last checkpoint",
    "Evicted": "raise the requests of what ran out (memory, ephemeral-storage), or the pods' priority; the Job goes on"
    " by itself meanwhile",
    "NoProgress": "see `mtm logs NAME STAGE`; delete the pod to begin its next attempt, from the last checkpoint",
    "DataNotFound": "correct the addresses, or put the data there: it is looked for again every 5 minutes",
}

#: A quota or a LimitRange speaks, not another policy.
_RESOURCES = re.compile(
    r"exceeded quota|must specify|(?:maximum|minimum) \S+ usage|max limit to request ratio"
    r"|must be less than or equal to \S+ limit"
)
#: These end by themselves, though it may take long: somebody else's work ends, a node is added, the queue admits.
#: A stage that reports nothing may be at work for all that: nobody has to change anything before it goes on.
WAITING_REASONS = frozenset(
    {"NoProgress", "Gated", "NoGPUFree", "Queued", "QuotaExceeded", "Retrying", "Unschedulable"}
)

#: A claim that one node alone can mount is needed on another.
NOT_SHARED = "StorageNotShared"
_SHARE = (
    "the claim mounts on one node at a time; use a ReadWriteMany claim or s3:// storage, or keep servers and Jobs on"
    " one node with nodeSelector kubernetes.io/hostname in spec.serving.podTemplate and spec.training.podTemplate"
)
_PULL = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Blocker:
    """A condition's reason in CamelCase, and a message that says what to change."""

    reason: str
    message: str


def with_remediation(reason: str, message: str) -> str:
    """``message`` and what helps; if both are too long for a condition, the message is cut, not the advice."""
    advice = REMEDIATION.get(reason)
    return message if advice is None else append_advice(message.rstrip("."), f"; {advice}")


def without_remediation(reason: str, message: str) -> str:
    """The message that `with_remediation` was given."""
    return message.removesuffix(f"; {REMEDIATION[reason]}") if reason in REMEDIATION else message


def append_advice(message: str, advice: str) -> str:
    """``message`` and ``advice`` in the bytes that a condition has for both."""
    return cut(message, MESSAGE_BYTES - len(advice.encode())) + advice


# -- checks ------------------------------------------------------------------------------------------------------------


def job_blocked(stage_job: StageJob, gpu_resource: str, warnings: Mapping[str, str]) -> Blocker | None:
    """The pods of an open Job do not run; ``warnings`` as in `ClusterState`."""
    return not_admitted(stage_job.job) or pods_blocked(stage_job.pods, gpu_resource) or _warned(stage_job, warnings)


def job_stuck(
    stage_job: StageJob, gpu_resource: str, warnings: Mapping[str, str], now: float, grace: float
) -> Blocker | None:
    """As `job_blocked`, once that has lasted for ``grace`` seconds: most pods wait a moment for a node or an image."""
    if max(0.0, now - waiting_since(stage_job)) < grace:  # two machines' clocks differ
        return None
    return job_blocked(stage_job, gpu_resource, warnings)


def waiting_since(stage_job: StageJob) -> float:
    """Since when the Job's oldest pending pod waits, or the Job itself if it has none; in Unix seconds."""
    pending = [pod for pod in stage_job.pods if pod.get("status", {}).get("phase") == "Pending"]
    if pending:
        return min(created_seconds(pod) for pod in pending)
    job = stage_job.job or {}
    suspended = (each for each in job.get("status", {}).get("conditions") or () if each.get("type") == "Suspended")
    times = [parse_time(each["lastTransitionTime"]) for each in suspended if "lastTransitionTime" in each]
    return max((created_seconds(job), *times))


def not_admitted(job: JsonObject | None) -> Blocker | None:
    """The Job's queue has not admitted it."""
    if job is None or not job.get("spec", {}).get("suspend"):
        return None
    queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL, "")
    return Blocker("Queued", f"{_name(job)} waits for admission by queue {queue!r}")


def pods_blocked(pods: Sequence[JsonObject], gpu_resource: str) -> Blocker | None:
    """One of the pods is pending for a reason that it shows; the first reason."""
    pending = (pod for pod in pods if pod.get("status", {}).get("phase") == "Pending")
    reasons = (blocker for pod in pending for blocker in (*_waiting(pod), *_unscheduled(pod, gpu_resource)))
    return next(reasons, None)


def deletion_stuck(stage_job: StageJob, now: float) -> Blocker | None:
    """A deleted Job still exists: no other one of its name can be created."""
    if stage_job.job is None or not stage_job.is_being_deleted:
        return None
    metadata = stage_job.job["metadata"]
    since = metadata["deletionTimestamp"]
    if now - parse_time(since) < DELETION_GRACE_SECONDS:
        return None
    finalizers = ", ".join(metadata.get("finalizers") or ("none",))
    return Blocker(
        "NotDeleted", f"{_name(stage_job.job)} was deleted at {since} and still exists, finalizers: {finalizers}"
    )


def retrying(stage_job: StageJob) -> Blocker | None:
    """The last attempt of an open Job failed, and its next one does not run yet."""
    if not stage_job.is_open or has_running_pod(stage_job.pods):
        return None
    failure = stage_job.failure[1] if stage_job.failure else None
    why = out_of_memory(stage_job.pods) or (failure.message if failure else None) or exit_code(stage_job.pods)
    if why is None:
        return None
    stage = failure.stage if failure else next((stage for stage, _ in stage_job.keys), stage_job.kind)
    job = stage_job.job or {}
    # Of several nodes, one that fails takes the others with it: so many failed pods are one attempt.
    pods = job.get("spec", {}).get("completions", 1)
    attempts = job.get("spec", {}).get("backoffLimit", 0) // pods + 1
    attempt = min(attempts, ceil(job.get("status", {}).get("failed", 0) / pods) + 1)
    return Blocker("Retrying", f"{stage}: {why}; its Job tries again by itself (attempt {attempt} of {attempts})")


# -- what the checks need, and when ------------------------------------------------------------------------------------


def objects_needing_events(stage_job: StageJob) -> tuple[JsonObject, ...]:
    """An open Job and its pods if they show neither a running pod nor why there is none: only Events may tell."""
    if (
        stage_job.job is None
        or not stage_job.is_open
        or has_running_pod(stage_job.pods)
        or not_admitted(stage_job.job)
        or pods_blocked(stage_job.pods, gpu_resource="")
    ):
        return ()
    if not stage_job.pods:
        return (stage_job.job,)  # once the Job has had a pod, Events about the Job are out of date
    return tuple(pod for pod in stage_job.pods if pod.get("status", {}).get("phase") == "Pending")


def requeue_after(
    stage_job: StageJob, gpu_resource: str, warnings: Mapping[str, str], now: float, grace: float
) -> float | None:
    """Seconds until time alone may change what is known of the Job; None: a watch shows all."""
    left = grace - (now - waiting_since(stage_job))
    if left > 0 and stage_job.is_open and job_blocked(stage_job, gpu_resource, warnings) is not None:
        return left
    if stage_job.is_being_deleted and deletion_stuck(stage_job, now) is None:
        return DELETION_GRACE_SECONDS
    # An Event may come at any time, most likely at once: the longer there is none, the longer the interval.
    waits = objects_needing_events(stage_job) and job_blocked(stage_job, gpu_resource, warnings) is None
    return max(EVENT_DELAY, stage_job.age(now)) if waits else None


def pod_warned(pod: JsonObject, text: str) -> Blocker:
    """The newest Event about a pod that does not start is a Warning with that text."""
    if "Multi-Attach" in text:
        return Blocker(NOT_SHARED, f"{_name(pod)}: {text.rstrip('. ')}; {_SHARE}")
    return Blocker("PodWarning", f"{_name(pod)}: {text}")


def _warned(stage_job: StageJob, warnings: Mapping[str, str]) -> Blocker | None:
    for item in objects_needing_events(stage_job):
        text = warnings.get(item["metadata"]["uid"])
        if text is None:
            continue
        if item["kind"] == "Pod":
            return pod_warned(item, text)
        reason = "QuotaExceeded" if "exceeded quota" in text else "PodRefused"
        where = f"; its resources are those of {resources_setting(stage_job.kind)}" if _RESOURCES.search(text) else ""
        return Blocker(reason, f"{_name(item)} gets no pod: {text}{where}")
    return None


def _waiting(pod: JsonObject) -> Iterator[Blocker]:
    for status in container_statuses(pod):
        waiting = status.get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _PULL:
            image = status.get("image", "")
            yield Blocker("ImageNotPulled", f"{_name(pod)}: image {image} cannot be pulled: {message or reason}")
        elif reason in _CONFIG and (missing := re.search(r'secret "([^"]+)" not found', message)):
            yield Blocker(
                "SecretMissing",
                f"Secret {missing[1]!r}, named in spec.credentials or a podTemplate, does not exist in this namespace;"
                " create it, the pod goes on by itself",
            )
        elif reason in _CONFIG:
            yield Blocker("PodNotStarted", f"{_name(pod)}: {message or reason}")


def _unscheduled(pod: JsonObject, gpu_resource: str) -> Iterator[Blocker]:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition.get("type") != "PodScheduled" or condition.get("status") != "False":
            continue
        message = condition.get("message", "")
        if f"Insufficient {gpu_resource}" in message:
            yield Blocker("NoGPUFree", f"{_name(pod)} waits for a free {gpu_resource}: {message}")
        elif "cannot allocate all claims" in message:
            yield Blocker("NoGPUFree", f"{_name(pod)} waits for the devices that it claims: {message}")
        elif "ReadWriteOncePod" in message:
            yield Blocker(NOT_SHARED, f"{_name(pod)} fits no node: {message.rstrip('. ')}; {_SHARE}")
        elif condition.get("reason") == "SchedulingGated":
            yield Blocker("Gated", f"{_name(pod)} waits for a scheduling gate: {message}")
        else:
            yield Blocker("Unschedulable", f"{_name(pod)} fits no node: {message}")


def _name(item: JsonObject) -> str:
    return f"{item.get('kind', 'Pod')} {item['metadata']['name']}"
