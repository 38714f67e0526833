"""What the pods of a Job show: which run, and why one that failed did. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multitask_api.types import JsonObject
from multitask_operator.objects.resources import SMALL_KINDS, memory_setting
from multitask_operator.objects.user_pod_template import CONTAINER
from multitask_operator.reconciler.state.accessors import (
    completion_index,
    created_at,
    kind_label,
    parse_time,
    true_condition,
)


def has_running_pod(pods: Sequence[JsonObject]) -> bool:
    """Whether one of them is in phase Running."""
    return any(pod.get("status", {}).get("phase") == "Running" for pod in pods)


def container_statuses(pod: JsonObject) -> Iterator[JsonObject]:
    """The statuses of a pod's containers, init containers first."""
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def trainer_ended(pod: JsonObject) -> tuple[int, float] | None:
    """Exit code and time, in Unix seconds, of the stage's own container; None while it runs or has not begun."""
    for status in pod.get("status", {}).get("containerStatuses", ()):
        ended = status.get("state", {}).get("terminated")
        if status.get("name") == CONTAINER and ended and ended.get("finishedAt"):
            return ended.get("exitCode", 0), parse_time(ended["finishedAt"])
    return None


def running_containers(pod: JsonObject) -> list[str]:
    """The names of the containers that run."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return [status["name"] for status in statuses if "running" in status.get("state", {})]


def exit_code(pods: Sequence[JsonObject]) -> str | None:
    """How the newest failed pod ended, with the last line that it printed; None if none failed or all were evicted."""
    for pod in _failed(pods):
        for status in container_statuses(pod):
            terminated = status.get("state", {}).get("terminated", {})
            if terminated.get("exitCode"):
                last_line = (terminated.get("message") or "").strip().rpartition("\n")[2]
                return (
                    f"its program ended with exit code {terminated['exitCode']}{f': {last_line}' if last_line else ''}"
                )
    return None


def out_of_memory(pods: Sequence[JsonObject]) -> str | None:
    """What to change after a container of the last failed attempt was killed for its memory; None if none was."""
    # The newest of each node: where memory runs out on one, the pods of the others fail after it.
    newest = {completion_index(pod): pod for pod in reversed(_failed(pods))}
    for pod in newest.values():
        for status in container_statuses(pod):
            for state in (status.get("state", {}), status.get("lastState", {})):
                if state.get("terminated", {}).get("reason") == "OOMKilled":
                    return _memory_advice(pod, status["name"])
    return None


def _memory_advice(pod: JsonObject, container: str) -> str:
    limit, kind = _memory_limit(pod, container), kind_label(pod)
    what = f"ran out of memory{f' (limit {limit})' if limit else ''}"
    if container != CONTAINER:
        return f"container {container} {what}; raise its limit in the podTemplate that adds it"
    advice = f"{what}; raise {memory_setting(kind)}"
    return advice if kind in SMALL_KINDS else f"{advice}, or lower training.batchRows or training.maxLength"


def _failed(pods: Sequence[JsonObject]) -> list[JsonObject]:
    """Those that failed by themselves, the newest first: preemption and eviction are no failures."""
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    by_themselves = [pod for pod in failed if true_condition(pod, "DisruptionTarget") is None]
    return sorted(by_themselves, key=created_at, reverse=True)


def _memory_limit(pod: JsonObject, container: str) -> str | None:
    for spec in pod.get("spec", {}).get("containers", ()):
        if spec["name"] == container:
            limit: str | None = spec.get("resources", {}).get("limits", {}).get("memory")
            return limit
    return None
