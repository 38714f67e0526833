"""Why nothing moves: the waiting and ending reasons of pods and Jobs in the words of whoever can change that. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multitask_api.cluster import CLEAN_UP, RESOLVE
from multitask_operator.reconciler.cluster_state import RejectedWrite
from multitask_operator.reconciler.stage_job import StageJob, parse_time

Object = Mapping[str, Any]

#: Seconds that a Job and its pods may take to show something before Events are asked about them, and a Job to go.
EVENT_DELAY = 5.0

_FORBIDDEN, _CONFLICT = 403, 409
_PULL = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Blocker:
    """One reason in CamelCase, and a message that says what to change."""

    reason: str
    message: str


def blocker_for_rejected_write(refusal: RejectedWrite) -> Blocker:
    """A write that the API server does not take."""
    advice = "change what it names"
    if "exceeded quota" in refusal.message:
        advice = "raise the quota, or wait until other work has ended"
    elif refusal.code == _CONFLICT:
        advice = "delete or rename it"
    elif refusal.code == _FORBIDDEN and " cannot " in refusal.message:
        advice = "give the operator's role this permission"
    said = refusal.message.rstrip(".")
    return Blocker(
        "WriteRefused", f"{refusal.verb} {refusal.kind} {refusal.name}: {said}; {advice}: it is tried again by itself"
    )


def blocker_for_job(unit: StageJob, gpu_resource: str, warnings: Mapping[str, str]) -> Blocker | None:
    """What keeps the pods of an open Job from running; ``warnings`` as in `RawState`."""
    return blocker_for_queue(unit.job) or blocker_for_pods(unit.pods, gpu_resource) or _warned(unit, warnings)


def objects_needing_events(unit: StageJob) -> tuple[Object, ...]:
    """An open Job and its pods if they show neither a running pod nor why there is none: only Events may tell."""
    if (
        unit.job is None
        or not is_open(unit)
        or has_running_pod(unit)
        or blocker_for_queue(unit.job)
        or blocker_for_pods(unit.pods, gpu_resource="")
    ):
        return ()
    if not unit.pods:
        return (unit.job,)  # what was said of it is over once it has had a pod
    return tuple(pod for pod in unit.pods if pod.get("status", {}).get("phase") == "Pending")


def age(unit: StageJob, now: float) -> float:
    """Seconds since a unit's Job was made; 0 without one."""
    return 0.0 if unit.job is None else now - parse_time(unit.job["metadata"]["creationTimestamp"])


def requeue_after(unit: StageJob, gpu_resource: str, warnings: Mapping[str, str], now: float) -> float | None:
    """Seconds until it has to be looked at again, where no watch would tell what keeps it; None: one would."""
    if unit.stopping and stuck_deletion(unit, now) is None:
        return EVENT_DELAY
    # An Event may come at any time, most likely at once: the longer there is none, the rarer the look.
    waits = objects_needing_events(unit) and blocker_for_job(unit, gpu_resource, warnings) is None
    return max(EVENT_DELAY, age(unit, now)) if waits else None


def is_open(unit: StageJob) -> bool:
    """Whether its Job is there and has not ended, or has not said what it found yet."""
    return unit.job is not None and not unit.ended and (unit.kind in (RESOLVE, CLEAN_UP) or not unit.reported)


def has_running_pod(unit: StageJob) -> bool:
    """Whether one of its pods does."""
    return any(pod.get("status", {}).get("phase") == "Running" for pod in unit.pods)


def stuck_deletion(unit: StageJob, now: float) -> Blocker | None:
    """A Job that does not go although it was deleted: none of its name can be made before."""
    since = (unit.job or {}).get("metadata", {}).get("deletionTimestamp")
    if unit.job is None or since is None or now - parse_time(since) < EVENT_DELAY:
        return None
    finalizers = ", ".join(unit.job["metadata"].get("finalizers") or ("nothing",))
    return Blocker("NotDeleted", f"{_name(unit.job)} was deleted at {since} and is held by {finalizers}")


def blocker_for_pods(pods: Sequence[Object], gpu_resource: str) -> Blocker | None:
    """The first thing that keeps one of these pods from running; None if all run or have ended."""
    for pod in pods:
        if pod.get("status", {}).get("phase") != "Pending":
            continue
        for found in (*_waiting(pod), *_unscheduled(pod, gpu_resource)):
            return found
    return None


def blocker_for_queue(job: Object | None) -> Blocker | None:
    """A Job that its queue has not admitted."""
    if job is None or not job.get("spec", {}).get("suspend"):
        return None
    queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name", "")
    return Blocker("Queued", f"{_name(job)} waits for admission by queue {queue!r}")


def containers(pod: Object) -> Iterator[Object]:
    """The states of a pod's containers, those that run first first."""
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def _warned(unit: StageJob, warnings: Mapping[str, str]) -> Blocker | None:
    for item in objects_needing_events(unit):
        text = warnings.get(item["metadata"]["uid"])
        if text is None:
            continue
        if item["kind"] == "Pod":
            return Blocker("PodWarning", f"{_name(item)}: {text}")
        reason = "QuotaExceeded" if "exceeded quota" in text else "PodRefused"
        return Blocker(reason, f"{_name(item)} gets no pod: {text}")
    return None


def _waiting(pod: Object) -> Iterator[Blocker]:
    for status in containers(pod):
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


def _unscheduled(pod: Object, gpu_resource: str) -> Iterator[Blocker]:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition.get("type") != "PodScheduled" or condition.get("status") != "False":
            continue
        message = condition.get("message", "")
        if f"Insufficient {gpu_resource}" in message:
            yield Blocker("NoGPUFree", f"{_name(pod)} waits for a free {gpu_resource}: {message}")
        elif condition.get("reason") == "SchedulingGated":
            yield Blocker("Gated", f"{_name(pod)} waits for a scheduling gate: {message}")
        else:
            yield Blocker("Unschedulable", f"{_name(pod)} fits no node: {message}")


def _name(item: Object) -> str:
    return f"{item.get('kind', 'Pod')} {item['metadata']['name']}"
