"""Pods of a Job as a cluster shows them, one builder for each sight."""

from __future__ import annotations

from typing import Any

from multitask_operator.reconciler.state.accessors import format_time

Pod = dict[str, Any]


def pod(job: str, phase: str, *, name: str = "p", node: str = "node-1", **status: Any) -> Pod:
    """A pod of the Job in that phase."""
    metadata = {"name": name, "uid": f"u-{name}", "labels": {"batch.kubernetes.io/job-name": job}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [{"name": "trainer"}]},
        "status": {"phase": phase, **status},
    }


def unseen(job: str, since: float, *, scheduler: str = "default-scheduler", **more: Any) -> Pod:
    """Created at ``since``, in Unix seconds, and no scheduler has looked at it."""
    item = pod(job, "Pending", node="", **more)
    item["metadata"]["creationTimestamp"] = format_time(since)
    item["spec"]["schedulerName"] = scheduler
    return item


def running(job: str, since: float, **more: Any) -> Pod:
    """Its stage's container was started at ``since``, in Unix seconds."""
    container = {"name": "trainer", "state": {"running": {"startedAt": format_time(since)}}}
    return pod(job, "Running", containerStatuses=[container], **more)


def held(job: str, ended: float, exit_code: int = 0, **more: Any) -> Pod:
    """Its stage's container ended at ``ended``, and an injected sidecar goes on."""
    terminated = {"exitCode": exit_code, "finishedAt": format_time(ended)}
    containers = [
        {"name": "trainer", "state": {"terminated": terminated}},
        {"name": "istio-proxy", "state": {"running": {"startedAt": format_time(ended - 60)}}},
    ]
    return pod(job, "Running", containerStatuses=containers, **more)


def node_silent(job: str, since: float, **more: Any) -> Pod:
    """The node controller has marked a running pod as not ready, because its node does not answer."""
    conditions = [
        {"type": "ContainersReady", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": format_time(since)},
    ]
    return pod(job, "Running", conditions=conditions, **more)


def terminating(job: str, until: float, **more: Any) -> Pod:
    """Deleted, with a grace period that ends at ``until``."""
    item = pod(job, "Running", **more)
    item["metadata"]["deletionTimestamp"] = format_time(until)
    return item


def evicted(job: str, number: int, message: str = "The node was low on resource: memory.") -> Pod:
    """Ended by the kubelet for want of memory."""
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    return pod(job, "Failed", name=f"evicted-{number}", conditions=[disrupted], message=message)
