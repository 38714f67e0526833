"""What could still write into a model's storage: Jobs and pods that have not ended. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api.cluster import CLEAN_UP
from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.accessors import (
    created_at,
    has_ended,
    is_being_deleted,
    is_finished,
    job_of,
    kind_label,
    parse_time,
)
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.revision_state import revision_label
from multitask_operator.reconciler.state.stage_job import StageJob

#: Seconds after which a terminating pod is given up: its node does not answer, so that nobody can say that it ended.
NODE_LOST_SECONDS = 600.0


def active_jobs_and_pods(cluster: ClusterState, clean_up: StageJob | None, now: float) -> list[JsonObject]:
    """Jobs and pods of stages that have not ended, and Jobs that a stale decision created after ``clean_up`` was; and
    the servers: they read what is about to be removed."""
    jobs = [
        job
        for job in _of_stages(cluster.jobs)
        if not is_finished(job) or (clean_up is not None and created_at(job) >= clean_up.created_at)
    ]
    pods = [pod for pod in _of_stages(cluster.pods) if _is_ours(pod) and is_active(pod, now)]
    return [*cluster.deployments, *jobs, *pods]


def _is_ours(pod: JsonObject) -> bool:
    """Whether a pod belongs to a Job or a Deployment of the model, and not to anybody who copied the labels."""
    return job_of(pod) is not None or bool(revision_label(pod))


def is_active(pod: JsonObject, now: float) -> bool:
    """Whether a pod may still write: it has not ended, and its node is not lost."""
    return not has_ended(pod) and (not is_being_deleted(pod) or now < node_lost_at(pod))


def node_lost_at(pod: JsonObject) -> float:
    """When a terminating pod is given up, in Unix seconds; its grace period is in the deletion timestamp."""
    return parse_time(pod["metadata"]["deletionTimestamp"]) + NODE_LOST_SECONDS


def _of_stages(items: Sequence[JsonObject]) -> list[JsonObject]:
    return [item for item in items if kind_label(item) != CLEAN_UP]
