"""The Job of one or several stages, and the headless Service by which its pods on several nodes find each other."""

from __future__ import annotations

from collections.abc import Mapping

from multitask_api.cluster import (
    CLEAN_UP,
    EXIT_ALONE,
    EXIT_USER_ERROR,
    GC,
    MASTER_PORT,
    POD_SETTINGS_ANNOTATION,
    RESOLVE,
)
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_api.stages.digests import digest
from multitask_api.types import JsonDict
from multitask_operator.objects.names import Owner, object_metadata
from multitask_operator.objects.pods import POD_ANNOTATIONS, PodSettings, pod_group_name, pod_template
from multitask_operator.objects.resources import pods_per_job
from multitask_operator.objects.stage_jobs import StageJobSpec, stage_annotations
from multitask_operator.objects.user_pod_template import CONTAINER

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
#: Retries of the Job; of several nodes, a pod that fails takes the others with it.
RETRIES = 3
#: Attempts of a clean-up, and seconds that it may take in all: a deletion waits for it. So it is with a Job that
#: removes what is not used: somebody waits for its answer.
CLEAN_UP_ATTEMPTS = 3
CLEAN_UP_SECONDS = 6 * 3600
#: The report of a Job is in its ConfigMap; the Job is kept a day for its log.
KEPT_SECONDS = 24 * 3600

#: A deletion, a person, and traffic wait for them: they wait for no queue.
_WITHOUT_QUEUE = (CLEAN_UP, GC, VERIFY_REVISION)

_FAILURE_POLICY: JsonDict = {
    "rules": [
        {
            "action": "FailJob",  # the trainer says that the input is wrong: a retry would not help
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [EXIT_USER_ERROR]},
        },
        {
            "action": "Ignore",  # preempted, evicted, drained: the pod resumes from its checkpoint elsewhere
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]
}
#: Of a Job with several pods: its GPUs go back to the cluster until all of its pods find room.
_ALONE: JsonDict = {
    "action": "Ignore",
    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [EXIT_ALONE]},
}
_POD_GROUPS = {"Coscheduling": "scheduling.x-k8s.io/v1alpha1", "Volcano": "scheduling.volcano.sh/v1beta1"}


def stage_job(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec, settings: PodSettings) -> JsonDict:
    """The Job that runs ``stage_job``; created once and never changed.

    Raises `PodTemplateError` or `ResourcesError` for what the spec cannot ask for.
    """
    name, kind = stage_job.name, stage_job.kind
    template = pod_template(owner, spec, stage_job, settings)
    job = object_metadata(owner, "batch/v1", "Job", name, of=kind, annotations=stage_job.annotations)
    _copy_metadata(template["metadata"], job["metadata"])
    pods = pods_per_job(spec, kind)
    job["spec"] = {
        "backoffLimit": RETRIES * pods,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "podFailurePolicy": _FAILURE_POLICY,
        # A terminating pod may still write: its replacement waits until it has ended.
        "podReplacementPolicy": "Failed",
        "template": template,
    }
    if pods > 1:
        job["spec"] |= {"completionMode": "Indexed", "completions": pods, "parallelism": pods}
        job["spec"]["podFailurePolicy"] = {"rules": [*_FAILURE_POLICY["rules"], _ALONE]}
    if kind in _WITHOUT_QUEUE:
        for metadata in (job["metadata"], template["metadata"]):
            metadata["labels"].pop(QUEUE_LABEL, None)
    if kind in (CLEAN_UP, GC):
        job["spec"] |= {"backoffLimit": CLEAN_UP_ATTEMPTS - 1, "activeDeadlineSeconds": CLEAN_UP_SECONDS}
    elif kind not in (RESOLVE, VERIFY_REVISION) and spec.training.active_deadline_seconds is not None:
        job["spec"]["activeDeadlineSeconds"] = spec.training.active_deadline_seconds * stage_job.stages
    if kind not in _WITHOUT_QUEUE and spec.training.queue_name is not None:
        job["metadata"]["labels"][QUEUE_LABEL] = spec.training.queue_name
    if QUEUE_LABEL in job["metadata"]["labels"]:
        job["spec"]["suspend"] = True
    given = {"spec": job["spec"], "labels": job["metadata"]["labels"]}
    job["metadata"].setdefault("annotations", {})[POD_SETTINGS_ANNOTATION] = digest(given)
    return job


def _copy_metadata(pod: JsonDict, job: JsonDict) -> None:
    """Kueue reads priority and limits from the Job, policy engines ask for a team or a cost centre there."""
    for part in ("labels", "annotations"):
        added = {key: value for key, value in (pod.get(part) or {}).items() if key not in POD_ANNOTATIONS}
        job[part] = added | job.get(part, {})


def pod_group(
    owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec, settings: PodSettings
) -> JsonDict | None:
    """What has the pods of a Job on several nodes scheduled together or not at all; None where nothing does."""
    pods, api_version = pods_per_job(spec, stage_job.kind), _POD_GROUPS.get(settings.gang_scheduling)
    if pods == 1 or api_version is None:
        return None
    name = pod_group_name(stage_job.name, pods)
    group = object_metadata(owner, api_version, "PodGroup", name, of=stage_job.kind, annotations=stage_job.annotations)
    return group | {"spec": {"minMember": pods}}


def stage_service(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec) -> JsonDict | None:
    """The headless Service of a Job on several nodes; None for one pod."""
    if pods_per_job(spec, stage_job.kind) == 1:
        return None
    annotations = stage_annotations([(order.stage, order.digest) for order in stage_job.orders])
    return headless_service(owner, stage_job.name, stage_job.kind, annotations)


def headless_service(owner: Owner, name: str, kind: str, annotations: Mapping[str, str]) -> JsonDict:
    """The Service of the Job ``name``, of that kind among our labels."""
    service = object_metadata(owner, "v1", "Service", name, of=kind, annotations=annotations)
    service["spec"] = {
        "clusterIP": "None",
        "selector": {"batch.kubernetes.io/job-name": name},
        # The pods connect to each other before any of them is ready.
        "publishNotReadyAddresses": True,
        "ports": [{"name": "master", "port": MASTER_PORT, "targetPort": MASTER_PORT, "protocol": "TCP"}],
    }
    return service
