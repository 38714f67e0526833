"""The Job of a unit, and the headless Service by which the pods of a Job on several nodes find each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multitask_api.cluster import CLEAN_UP, EXIT_USER_ERROR, MASTER_PORT
from multitask_api.resource import MultiTaskModelSpec
from multitask_operator.objects.names import Owner, object_metadata
from multitask_operator.objects.pod_template import CONTAINER
from multitask_operator.objects.pods import PodSettings, pod_template
from multitask_operator.objects.resources import nodes
from multitask_operator.objects.stage_jobs import StageJobSpec

Map = dict[str, Any]

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
#: Pods that may fail before the Job has; of several nodes, one that fails takes the others with it.
RETRIES = 3
#: Pods of a clean-up that may fail, and seconds that it may take in all: a deletion waits for it.
CLEAN_UP_ATTEMPTS = 3
CLEAN_UP_SECONDS = 6 * 3600
#: What a Job found stands in its ConfigMap; the Job stays a day for its log.
KEPT_SECONDS = 24 * 3600

_FAILURE_POLICY: Map = {
    "rules": [
        {
            "action": "FailJob",  # the trainer says that the input is wrong: nothing changes by trying again
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [EXIT_USER_ERROR]},
        },
        {
            "action": "Ignore",  # preempted, evicted, drained: the pod resumes from its checkpoint elsewhere
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]
}


def stage_job(owner: Owner, spec: MultiTaskModelSpec, stage: StageJobSpec, settings: PodSettings) -> Map:
    """The Job of ``unit``; made once and never changed.

    Raises `PodTemplateError` or `ResourcesError` for what the spec cannot ask for.
    """
    job = object_metadata(owner, "batch/v1", "Job", stage.name, of=stage.kind, annotations=stage.annotations)
    pods = nodes(spec, stage.kind)
    job["spec"] = {
        "backoffLimit": RETRIES * pods,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "podFailurePolicy": _FAILURE_POLICY,
        # A pod that is still ending may still write: the next one waits for it.
        "podReplacementPolicy": "Failed",
        "template": pod_template(owner, spec, stage, settings),
    }
    if pods > 1:
        job["spec"] |= {"completionMode": "Indexed", "completions": pods, "parallelism": pods}
    if stage.kind == CLEAN_UP:
        job["spec"] |= {"backoffLimit": CLEAN_UP_ATTEMPTS - 1, "activeDeadlineSeconds": CLEAN_UP_SECONDS}
    elif spec.training.queue_name is not None:
        job["metadata"]["labels"][QUEUE_LABEL] = spec.training.queue_name
        job["spec"]["suspend"] = True
    return job


def stage_service(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec) -> Map | None:
    """The headless Service of a unit on several nodes; None for one pod."""
    return (
        None
        if nodes(spec, stage_job.kind) == 1
        else headless_service(owner, stage_job.name, stage_job.kind, stage_job.annotations)
    )


def headless_service(owner: Owner, name: str, kind: str, annotations: Mapping[str, str]) -> Map:
    """Of the Job ``name``, whose unit is of ``kind``."""
    service = object_metadata(owner, "v1", "Service", name, of=kind, annotations=annotations)
    service["spec"] = {
        "clusterIP": "None",
        "selector": {"batch.kubernetes.io/job-name": name},
        # The pods meet before any of them is ready.
        "publishNotReadyAddresses": True,
        "ports": [{"name": "master", "port": MASTER_PORT, "targetPort": MASTER_PORT, "protocol": "TCP"}],
    }
    return service
