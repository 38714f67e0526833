"""Why nothing moves: the waiting and ending reasons of pods and Jobs in the words of whoever can change that. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multitask_operator.reconciler.units import Unit

Object = Mapping[str, Any]

_PULL = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Blocker:
    """One reason in CamelCase, and a message that says what to change."""

    reason: str
    message: str


def of_unit(unit: Unit, gpu_resource: str) -> Blocker | None:
    """What keeps the pods of an open Job from running."""
    return of_job(unit.job) or of_pods(unit.pods, gpu_resource)


def of_pods(pods: Sequence[Object], gpu_resource: str) -> Blocker | None:
    """The first thing that keeps one of these pods from running; None if all run or have ended."""
    for pod in pods:
        if pod.get("status", {}).get("phase") != "Pending":
            continue
        for found in (*_waiting(pod), *_unscheduled(pod, gpu_resource)):
            return found
    return None


def of_job(job: Object | None) -> Blocker | None:
    """A Job that its queue has not admitted."""
    if job is None or not job.get("spec", {}).get("suspend"):
        return None
    queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name", "")
    return Blocker("Queued", f"{_name(job)} waits for admission by queue {queue!r}")


def out_of_memory(pods: Sequence[Object]) -> str | None:
    """What to change when a container was ended for its memory; None if none was."""
    for pod in pods:
        for status in _containers(pod):
            for state in (status.get("state", {}), status.get("lastState", {})):
                if state.get("terminated", {}).get("reason") == "OOMKilled":
                    limit = _limit(pod, status["name"])
                    return (
                        f"ran out of memory{f' (limit {limit})' if limit else ''}; raise "
                        "spec.training.resources.limits.memory, or lower training.batchRows or training.maxLength"
                    )
    return None


def _waiting(pod: Object) -> Iterator[Blocker]:
    for status in _containers(pod):
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
            yield Blocker("Queued", f"{_name(pod)} waits for a scheduling gate: {message}")
        else:
            yield Blocker("Unschedulable", f"{_name(pod)} fits no node: {message}")


def _containers(pod: Object) -> Iterator[Object]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def _limit(pod: Object, container: str) -> str | None:
    for spec in pod.get("spec", {}).get("containers", ()):
        if spec["name"] == container:
            limit: str | None = spec.get("resources", {}).get("limits", {}).get("memory")
            return limit
    return None


def _name(item: Object) -> str:
    return f"{item.get('kind', 'Pod')} {item['metadata']['name']}"
