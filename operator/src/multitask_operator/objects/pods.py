"""The pod template of a Job: one container that runs its orders, with as few rights as that takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from multitask_api.cluster import (
    CLEAN_UP,
    CLEAN_UP_KEY,
    CONFIGMAP_VARIABLE,
    GC,
    GC_KEY,
    MOUNTS_VARIABLE,
    ORDERS_KEY,
    ORDERS_PATH,
    POD_ENVIRONMENT,
    RESOLVE,
    RESOLVE_KEY,
    WORK_PATH,
    command,
)
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.serving_io.verify import VERIFY_COMMAND, VERIFY_KEY, VERIFY_REVISION
from multitask_api.types import JsonDict
from multitask_operator.objects.names import Owner, labels
from multitask_operator.objects.pod_layers import pod_layers, threads
from multitask_operator.objects.rbac import account_name
from multitask_operator.objects.resources import container_resources, gpus, pods_per_job
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.user_pod_template import CONTAINER, apply_user_template
from multitask_operator.objects.volumes import mounts_variable, pod_volumes, volume_mounts
from multitask_operator.settings import GangScheduling, PodDefaults

#: Seconds from SIGTERM to SIGKILL: a step has to end and a checkpoint to be written (and, for s3://, sent).
GRACE_SECONDS = 120
USER = 10001
POD_ANNOTATIONS = {"kubectl.kubernetes.io/default-container": CONTAINER}

POD_SECURITY: JsonDict = {
    "runAsNonRoot": True,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
FIXED_USER: JsonDict = {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
SECURITY: JsonDict = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


@dataclass(frozen=True)
class PodSettings:
    """What the installation, or the snapshot of the run, sets for stage pods."""

    image: str
    image_pull_policy: str = "IfNotPresent"
    gpu_resource: str = "nvidia.com/gpu"
    fixed_user: bool = True
    """False: the platform gives each pod its user and group, as OpenShift does."""
    gang_scheduling: GangScheduling = "None"
    defaults: PodDefaults = field(default_factory=PodDefaults)


def pod_security(fixed_user: bool) -> JsonDict:
    """The security context of a pod; without ``fixed_user`` the platform gives it user and group."""
    return POD_SECURITY | (FIXED_USER if fixed_user else {})


def user_variable(fixed_user: bool) -> dict[str, str]:
    """A user whom the image's passwd does not have has no name, and libraries ask for one."""
    return {} if fixed_user else {"USER": "multitask"}


def pull_secrets(spec: MultiTaskModelSpec) -> JsonDict:
    """The field of a pod for its registries, if there is something to say."""
    secrets = [{"name": each.name} for each in spec.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def credentials(spec: MultiTaskModelSpec) -> JsonDict:
    """The field of a container that reads storage or data, if there is something to say."""
    secrets = [{"secretRef": {"name": each.secret_ref.name}} for each in spec.credentials]
    return {"envFrom": secrets} if secrets else {}


def pod_template(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec, settings: PodSettings) -> JsonDict:
    """The template of the pods of ``stage_job``, with the `pod_layers` merged in.

    Raises `PodTemplateError` or `ResourcesError` for what the spec cannot ask for.
    """
    order_key = _order_key(stage_job)
    pod: JsonDict = {
        "restartPolicy": "Never",
        "serviceAccountName": account_name(owner, spec, stage_job.kind),
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(settings.fixed_user),
        "containers": [_container(owner, spec, stage_job, settings)],
        "volumes": [
            {
                "name": "orders",
                "configMap": {"name": stage_job.name, "items": [{"key": order_key, "path": order_key}]},
            },
            {"name": "work", "emptyDir": {}},
            # torch moves tensors between processes through shared memory; a container has 64 MiB of it.
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *pod_volumes(spec, stage_job.kind),
        ],
    }
    pod |= pull_secrets(spec)
    if pods_per_job(spec, stage_job.kind) > 1:
        pod["subdomain"] = stage_job.name
    metadata = {
        "labels": labels(owner.name, stage_job.kind),
        "annotations": dict(POD_ANNOTATIONS),
    }
    template: JsonDict = {"metadata": metadata, "spec": pod}
    if pods_per_job(spec, stage_job.kind) > 1:
        _join_pod_group(template, pod_group_name(stage_job.name, spec.training.nodes), settings.gang_scheduling)
    for layer in pod_layers(spec, stage_job.kind, settings.defaults):
        template = apply_user_template(template, layer.given, layer.place)
    return _with_gpus(template, gpus(spec, stage_job.kind), settings.gpu_resource)


def pod_group_name(job: str, nodes: int) -> str:
    """The name of a Job's PodGroup; a Job that is made again for another number of nodes needs another one."""
    return f"{job}-{nodes}"


def _join_pod_group(template: JsonDict, name: str, gang_scheduling: GangScheduling) -> None:
    if gang_scheduling == "Coscheduling":
        template["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] = name
    elif gang_scheduling == "Volcano":
        template["metadata"]["annotations"]["scheduling.k8s.io/group-name"] = name
        template["spec"]["schedulerName"] = "volcano"


def _with_gpus(template: JsonDict, count: int, gpu_resource: str) -> JsonDict:
    """``template`` with so many GPUs for the trainer: its device claims, if it has some, else the GPU resource."""
    if count == 0:
        return template
    containers: list[JsonDict] = template["spec"]["containers"]
    (trainer,) = (container for container in containers if container["name"] == CONTAINER)
    resources: JsonDict = trainer.get("resources") or {}
    claims = template["spec"].get("resourceClaims") or ()
    if not claims:
        limits = {gpu_resource: str(count)} | (resources.get("limits") or {})
        changed = resources | {"limits": limits}
    elif any((container.get("resources") or {}).get("claims") for container in containers):
        return template
    else:
        changed = resources | {"claims": [{"name": claim.get("name")} for claim in claims]}
    others = [trainer | {"resources": changed} if each is trainer else each for each in containers]
    return template | {"spec": template["spec"] | {"containers": others}}


def _container(owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec, settings: PodSettings) -> JsonDict:
    kind = stage_job.kind
    container: JsonDict = {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": _command(spec, stage_job),
        "env": [
            {"name": name, "value": value} for name, value in _environment(owner, spec, stage_job, settings).items()
        ],
        "resources": container_resources(spec, kind, settings.gpu_resource),
        "securityContext": SECURITY,
        # Without a termination message the last lines of the log say why a program failed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "orders", "mountPath": ORDERS_PATH, "readOnly": True},
            {"name": "work", "mountPath": WORK_PATH},
            {"name": "shm", "mountPath": "/dev/shm"},
            *volume_mounts(spec, kind),
        ],
    }
    return container | credentials(spec)


def _command(spec: MultiTaskModelSpec, stage_job: StageJobSpec) -> list[str]:
    kind = stage_job.kind
    if kind == VERIFY_REVISION:
        return list(VERIFY_COMMAND)
    return command(stage_job.name, nodes=pods_per_job(spec, kind), processes=max(1, gpus(spec, kind)))


def _environment(
    owner: Owner, spec: MultiTaskModelSpec, stage_job: StageJobSpec, settings: PodSettings
) -> dict[str, str]:
    return user_variable(settings.fixed_user) | {
        CONFIGMAP_VARIABLE: f"{owner.namespace}/{stage_job.name}",
        MOUNTS_VARIABLE: mounts_variable(spec, stage_job.kind),
        "OMP_NUM_THREADS": str(threads(spec, stage_job.kind)),
        **POD_ENVIRONMENT,
    }


def _order_key(stage_job: StageJobSpec) -> str:
    """The one key of the Job's ConfigMap that its pods mount: they write to others, and do not read those."""
    keys = {RESOLVE: RESOLVE_KEY, CLEAN_UP: CLEAN_UP_KEY, GC: GC_KEY, VERIFY_REVISION: VERIFY_KEY}
    return keys.get(stage_job.kind, ORDERS_KEY)
