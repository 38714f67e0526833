"""What attempts that failed say about the next one, and about the Job. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from multitask_operator.reconciler.blockers import Blocker, containers, has_running_pod, is_open
from multitask_operator.reconciler.stage_job import StageJob, node_of

Object = Mapping[str, Any]


def blocker_for_retry(unit: StageJob) -> Blocker | None:
    """An open Job whose last attempt failed and whose next one does not run yet."""
    if not is_open(unit) or has_running_pod(unit):
        return None
    said = unit.failure
    why = out_of_memory(unit.pods) or (said[1].message if said else None) or exit_code(unit.pods)
    if why is None:
        return None
    stage = said[1].stage if said else next((stage for stage, _ in unit.keys), unit.kind)
    job = unit.job or {}
    # Of several nodes, one that fails takes the others with it: so many failed pods are one attempt.
    pods = job.get("spec", {}).get("completions", 1)
    most = job.get("spec", {}).get("backoffLimit", 0) // pods + 1
    attempt = min(most, ceil(job.get("status", {}).get("failed", 0) / pods) + 1)
    return Blocker("Retrying", f"{stage}: {why}; its Job tries again by itself (attempt {attempt} of {most})")


def exit_code(pods: Sequence[Object]) -> str | None:
    """How the newest pod that failed ended, with the last line that it printed; None if none did, or was evicted."""
    for pod in _failed(pods):
        for status in containers(pod):
            ended = status.get("state", {}).get("terminated", {})
            if ended.get("exitCode"):
                last = (ended.get("message") or "").strip().rpartition("\n")[2]
                return f"its program ended with exit code {ended['exitCode']}{f': {last}' if last else ''}"
    return None


def out_of_memory(pods: Sequence[Object]) -> str | None:
    """What to change when a container of the last attempt that failed was ended for its memory; None if none was."""
    # The newest of each node: where memory runs out on one, the pods of the others fail after it.
    last = {node_of(pod): pod for pod in reversed(_failed(pods))}
    for pod in last.values():
        for status in containers(pod):
            for state in (status.get("state", {}), status.get("lastState", {})):
                if state.get("terminated", {}).get("reason") == "OOMKilled":
                    limit = _limit(pod, status["name"])
                    return (
                        f"ran out of memory{f' (limit {limit})' if limit else ''}; raise "
                        "spec.training.resources.limits.memory, or lower training.batchRows or training.maxLength"
                    )
    return None


def _failed(pods: Sequence[Object]) -> list[Object]:
    """Those that failed by themselves, the newest first."""
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed" and not _disrupted(pod)]
    return sorted(failed, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)


def _disrupted(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each.get("type") == "DisruptionTarget" and each.get("status") == "True" for each in conditions)


def _limit(pod: Object, container: str) -> str | None:
    for spec in pod.get("spec", {}).get("containers", ()):
        if spec["name"] == container:
            limit: str | None = spec.get("resources", {}).get("limits", {}).get("memory")
            return limit
    return None
