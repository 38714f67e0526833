"""Single facts of Kubernetes objects as the API server gives them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

from multitask_api.cluster import KIND_LABEL
from multitask_api.types import JsonObject, Record

R = TypeVar("R", bound=Record)


def read_record(configmap: JsonObject | None, key: str, kind: type[R]) -> R | None:
    """The record in ``data`` of a ConfigMap; None without one that can be read."""
    try:
        return kind.model_validate_json(((configmap or {}).get("data") or {})[key])
    except (KeyError, ValueError):
        return None


def is_being_deleted(item: JsonObject | None) -> bool:
    """Whether there is such an object and it has a deletion timestamp."""
    return item is not None and "deletionTimestamp" in item["metadata"]


def true_condition(item: JsonObject | None, condition_type: str) -> JsonObject | None:
    """The object's condition of that type, if its status is True."""
    for condition in (item or {}).get("status", {}).get("conditions") or ():
        if condition.get("type") == condition_type and condition.get("status") == "True":
            true: JsonObject = condition
            return true
    return None


def is_finished(job: JsonObject | None) -> bool:
    """Whether a Job has completed or failed."""
    return true_condition(job, "Complete") is not None or true_condition(job, "Failed") is not None


def has_ended(pod: JsonObject) -> bool:
    """Whether the pod runs no container again."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def kind_label(item: JsonObject) -> str:
    """The value of our kind label on a child: a stage's kind, ``resolve``, ``clean-up`` …; else empty."""
    kind: str = (item["metadata"].get("labels") or {}).get(KIND_LABEL, "")
    return kind


def controller(item: JsonObject) -> JsonObject | None:
    """The owner reference of what controls the object."""
    owners = item["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def controller_uid(item: JsonObject) -> str | None:
    """The uid of the owner that controls the object."""
    owner = controller(item)
    return owner["uid"] if owner is not None else None


def created_at(item: JsonObject) -> str:
    """When the object was created, as the API writes it: a later time is a greater text."""
    return str(item["metadata"].get("creationTimestamp", ""))


def created_seconds(item: JsonObject) -> float:
    """When the object was created, in Unix seconds; 0 if it does not say."""
    stamp = item.get("metadata", {}).get("creationTimestamp")
    return parse_time(stamp) if stamp else 0.0


def job_of(pod: JsonObject) -> str | None:
    """The name of the Job that a pod belongs to; None for a pod of anything else."""
    name: str | None = (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name")
    return name


def completion_index(pod: JsonObject) -> str:
    """The pod's index in an Indexed Job, counted from "0"; "0" in any other Job."""
    index: str = (pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", "0")
    return index


def acknowledgements(route: JsonObject) -> tuple[JsonObject, ...]:
    """The entries of gateways in the status of a TaskRoute."""
    return tuple((route.get("status") or {}).get("gateways") or ())


def started_at(job: JsonObject | None) -> float | None:
    """When a Job began, in Unix seconds."""
    stamp = (job or {}).get("status", {}).get("startTime")
    return parse_time(stamp) if stamp else None


def parse_time(stamp: str) -> float:
    """A timestamp of the API in Unix seconds."""
    return datetime.fromisoformat(stamp).timestamp()


def format_time(now: float) -> str:
    """Unix seconds as the API writes times."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
