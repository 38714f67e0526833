"""Jobs whose pods exist and get nowhere: no scheduler, a lost node, evictions without end, no progress. Pure.

Kubernetes waits for ever in all of them: a scheduler may come, a pod of a lost node is never gone, an eviction is no
failure of a Job, and a program that hangs still runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from multitask_api.types import JsonObject
from multitask_operator.objects.user_pod_template import CONTAINER
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.state.accessors import (
    created_seconds,
    has_ended,
    is_being_deleted,
    parse_time,
    true_condition,
)
from multitask_operator.reconciler.state.pods import container_statuses
from multitask_operator.reconciler.state.stage_job import StageJob

#: Seconds from a pod's creation until a scheduler should have looked at it: one that works takes less than one.
NOT_SCHEDULED_SECONDS = 120.0
#: Seconds from the end of a pod's grace period, or from the last sign of its node, until the node counts as lost.
NODE_LOST_SECONDS = 60.0
#: Seconds without a report of progress until a stage counts as stalled. Training reports every 15 seconds; the longest
#: silence of the others is a download, or the evaluation of a large model.
NO_PROGRESS_SECONDS = 900.0
#: Evictions of one Job that are reported.
MANY_EVICTIONS = 5


def stalled(job: StageJob, now: float) -> Blocker | None:
    """An open Job is on a lost node, or reports nothing; ``now`` in Unix seconds."""
    if not job.is_open or job.is_being_deleted:
        return None
    lost = next((blocker for pod in job.pods if (blocker := _node_lost(pod, now))), None)
    return lost or _silent(job, now)


def evicted(job: StageJob) -> Blocker | None:
    """The pods of an open Job were ended from outside `MANY_EVICTIONS` times."""
    disruptions = job.disruptions
    if not job.is_open or disruptions.count < MANY_EVICTIONS:
        return None
    last = disruptions.last.rstrip(".")
    return Blocker(
        "Evicted", f"Job {job.name}: {disruptions.count} of its pods were ended from outside, the last: {last}"
    )


def requeue_after(job: StageJob, now: float) -> float | None:
    """Seconds until the Job may count as stalled without any watch event."""
    if not job.is_open or job.is_being_deleted:
        return None
    times = [time for pod in job.pods if (time := _node_lost_at(pod)) is not None]
    times += _not_scheduled_at(job.pods)
    silent_since = _silent_since(job, now)
    times += [] if silent_since is None else [silent_since + NO_PROGRESS_SECONDS]
    return min((time - now for time in times if time > now), default=None)


# -- no scheduler ------------------------------------------------------------------------------------------------------


def not_scheduled(pods: Sequence[JsonObject], now: float) -> Blocker | None:
    """No scheduler has looked at one of the pods, so that not even an Event says why it waits."""
    for pod in pods:
        if _is_unseen(pod) and now >= created_seconds(pod) + NOT_SCHEDULED_SECONDS:
            name, since = pod["metadata"]["name"], _clock(created_seconds(pod))
            scheduler = pod.get("spec", {}).get("schedulerName", "default-scheduler")
            return Blocker("NotScheduled", f"Pod {name}: scheduler {scheduler!r} has not looked at it since {since}")
    return None


def seconds_until_not_scheduled(pods: Sequence[JsonObject], now: float) -> float | None:
    """Seconds until `not_scheduled` may find something without any watch event."""
    return min((time - now for time in _not_scheduled_at(pods) if time > now), default=None)


def _not_scheduled_at(pods: Sequence[JsonObject]) -> list[float]:
    return [created_seconds(pod) + NOT_SCHEDULED_SECONDS for pod in pods if _is_unseen(pod)]


def _is_unseen(pod: JsonObject) -> bool:
    """A scheduler gives a pod a node, or the condition that says why it has none; a gate is such a condition, too."""
    status = pod.get("status", {})
    if status.get("phase") != "Pending" or is_being_deleted(pod) or pod.get("spec", {}).get("nodeName"):
        return False
    types = {condition.get("type") for condition in status.get("conditions") or ()}
    return "PodScheduled" not in types and not any(container_statuses(pod))


# -- lost nodes --------------------------------------------------------------------------------------------------------


def _node_lost(pod: JsonObject, now: float) -> Blocker | None:
    lost_at = _node_lost_at(pod)
    if lost_at is None or now < lost_at:
        return None
    name, node = pod["metadata"]["name"], pod.get("spec", {}).get("nodeName", "")
    return Blocker(
        "NodeLost", f"Pod {name} is on node {node!r}, which has not answered since {_clock(_silent_at(pod))}"
    )


def _node_lost_at(pod: JsonObject) -> float | None:
    since = _silent_at(pod)
    return None if since is None else since + NODE_LOST_SECONDS


def _silent_at(pod: JsonObject) -> float | None:
    """Since when the kubelet has not done what it should have: end a deleted pod, or keep a running one ready."""
    if has_ended(pod) or not pod.get("spec", {}).get("nodeName"):
        return None
    if is_being_deleted(pod):
        return parse_time(pod["metadata"]["deletionTimestamp"])  # it contains the grace period
    # Without a readiness gate, a pod whose containers are ready is not ready itself only if its node does not answer:
    # the node controller writes that.
    if true_condition(pod, "ContainersReady") is None or pod.get("spec", {}).get("readinessGates"):
        return None
    for condition in pod.get("status", {}).get("conditions", ()):
        if (
            condition.get("type") == "Ready"
            and condition.get("status") == "False"
            and "lastTransitionTime" in condition
        ):
            return parse_time(condition["lastTransitionTime"])
    return None


# -- no progress -------------------------------------------------------------------------------------------------------


def _silent(job: StageJob, now: float) -> Blocker | None:
    since = _silent_since(job, now)
    if since is None or now - since < NO_PROGRESS_SECONDS:
        return None
    progress = job.progress
    stage = progress.stage if progress is not None else next((stage for stage, _ in job.keys), job.kind)
    last = f" (step {progress.step} of {progress.total})" if progress is not None and progress.total else ""
    return Blocker("NoProgress", f"{stage}: no progress since {_clock(since)}{last}")


def _silent_since(job: StageJob, now: float) -> float | None:
    """The last sign of life of a Job whose pods run: its last report, or the start of the attempt that runs.

    A pod's clock that is ahead of ours counts as now: it is not worth an alarm.
    """
    signs = list(_starts(job))
    if not signs:
        return None
    if job.progress is not None:
        signs.append(job.progress.updated)
    return min(max(signs), now)


def _starts(job: StageJob) -> Iterator[float]:
    """When the stage's containers that run were started."""
    for pod in job.pods:
        for status in pod.get("status", {}).get("containerStatuses", ()):
            began = status.get("state", {}).get("running", {}).get("startedAt")
            if status.get("name") == CONTAINER and began:
                yield parse_time(began)


def _clock(time: float | None) -> str:
    return datetime.fromtimestamp(time or 0.0, UTC).strftime("%Y-%m-%d %H:%M UTC")
