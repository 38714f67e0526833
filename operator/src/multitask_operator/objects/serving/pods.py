"""The pod template of a revision's servers: ``fetch`` copies the exported result, ``server`` answers from the copy.

It is built once, when the revision is made, and kept in its ConfigMap: neither a newer release nor a changed setting of
the installation restarts servers that run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from multitask_api.cluster import MOUNTS_VARIABLE, POD_ENVIRONMENT, WORK_PATH
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.serving_io.names import (
    EXPORT_PATH,
    FETCH_COMMAND,
    FETCH_CONTAINER,
    PROBE_PORT,
    REVISION_PATH,
    SERVER_COMMAND,
    SERVER_CONTAINER,
    SERVING,
    TRITON_PORT,
)
from multitask_api.serving_io.revision import REVISION_KEY
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.names import Owner
from multitask_operator.objects.pod_layers import Layer
from multitask_operator.objects.pods import SECURITY, credentials, pod_security, pull_secrets, user_variable
from multitask_operator.objects.resources import quantity, resource_amounts
from multitask_operator.objects.serving.names import revision_labels, serving_name
from multitask_operator.objects.user_pod_template import Protected, apply_user_template
from multitask_operator.objects.volumes import mounts_variable, pod_volumes, volume_mounts
from multitask_operator.settings import PodDefaults

PLACE = "spec.serving"
INSTALLATION = "the installation's servingPods"

#: Seconds from SIGTERM to SIGKILL: requests that have begun end, also long texts.
GRACE_SECONDS = 150
#: Seconds that a server may take to start besides loading, and bytes of weights that it loads in a second at least.
START_SECONDS, LOADED_PER_SECOND = 300, 50_000_000
_PROBE_SECONDS = 10
#: Where the spec gives none. A process with torch loaded takes 0.7 GiB (measured), Triton and its stub some more.
_CPU, _MEMORY = "1", 1536 * 1024**2
#: What the init container asks for.
_FETCH = {"cpu": "250m", "memory": "512Mi"}
_MIB = 1024**2

_PROTECTED = Protected(
    pod_fields={
        "restartPolicy": "remove it; servers are always restarted",
        "serviceAccountName": "remove it; spec.serviceAccountName sets it",
        "serviceAccount": "remove it; spec.serviceAccountName sets it",
        "hostname": "remove it; gateways find the servers by their addresses",
        "subdomain": "remove it; gateways find the servers by their addresses",
    },
    containers=(FETCH_CONTAINER, SERVER_CONTAINER),
    program="the server",
    variables=(MOUNTS_VARIABLE,),
)


@dataclass(frozen=True)
class ServerSettings:
    """What the installation sets for the servers of a new revision."""

    image: str
    image_pull_policy: str = "IfNotPresent"
    fixed_user: bool = True
    """False: the platform gives each pod its user and group, as OpenShift does."""
    defaults: PodDefaults = field(default_factory=PodDefaults)


def server_template(
    owner: Owner, spec: MultiTaskModelSpec, revision: str, bundle_bytes: int, settings: ServerSettings
) -> JsonDict:
    """The pod template of ``revision``, with the `server_layers` merged in.

    ``bundle_bytes``: of weights and adapters. Raises `PodTemplateError` or `ResourcesError` for what the spec cannot
    ask for.
    """
    labels = revision_labels(owner.name, revision)
    pod: JsonDict = {
        "restartPolicy": "Always",
        # A server asks nothing of the API server.
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(settings.fixed_user),
        "topologySpreadConstraints": [_spread(key, labels) for key in _TOPOLOGY],
        "initContainers": [_fetch(spec, bundle_bytes, settings)],
        "containers": [_server(spec, bundle_bytes, settings)],
        "volumes": [
            {
                "name": "revision",
                "configMap": {
                    "name": serving_name(owner.name, revision),
                    "items": [{"key": REVISION_KEY, "path": REVISION_KEY}],
                },
            },
            {"name": "export", "emptyDir": {}},
            {"name": "work", "emptyDir": {}},
            # Triton passes tensors to its Python backend through shared memory; a container has 64 MiB of it.
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            # Triton's Python backend makes a folder there whatever TMPDIR says, and ends without it.
            {"name": "tmp", "emptyDir": {}},
            *pod_volumes(spec, SERVING),
        ],
    }
    if spec.service_account_name is not None:
        pod["serviceAccountName"] = spec.service_account_name
    pod |= pull_secrets(spec)
    template: JsonDict = {
        "metadata": {
            "labels": labels,
            "annotations": {"kubectl.kubernetes.io/default-container": SERVER_CONTAINER},
        },
        "spec": pod,
    }
    for layer in server_layers(spec, settings.defaults):
        template = apply_user_template(template, layer.given, layer.place, _PROTECTED)
    return template


def server_layers(spec: MultiTaskModelSpec, defaults: PodDefaults) -> tuple[Layer, ...]:
    """The pod templates that are merged into a server's, the installation's first; those that are not empty."""
    layers = (
        Layer(f"{INSTALLATION}.podTemplate", defaults.pod_template),
        Layer(f"{PLACE}.podTemplate", spec.serving.pod_template),
    )
    return tuple(layer for layer in layers if layer.given)


def given_for_servers(spec: MultiTaskModelSpec) -> JsonObject:
    """All that a model says about its server pods: another value of it is another revision."""
    return {
        "podTemplate": spec.serving.pod_template,
        "resources": spec.serving.resources,
        "credentials": [each.secret_ref.name for each in spec.credentials],
        "imagePullSecrets": [each.name for each in spec.image_pull_secrets],
        "serviceAccountName": spec.service_account_name,
    }


def start_seconds(bundle_bytes: int) -> int:
    """Seconds that a server may take from its start until it answers."""
    return START_SECONDS + ceil(bundle_bytes / LOADED_PER_SECOND)


_TOPOLOGY = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")


def _spread(key: str, labels: JsonObject) -> JsonDict:
    """One node or zone must not take all servers with it; but rather two on a node than one that waits."""
    return {
        "topologyKey": key,
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(labels)},
    }


def _fetch(spec: MultiTaskModelSpec, bundle_bytes: int, settings: ServerSettings) -> JsonDict:
    container = _container(FETCH_CONTAINER, FETCH_COMMAND, settings)
    container["env"].append({"name": MOUNTS_VARIABLE, "value": mounts_variable(spec, SERVING)})
    server = server_resources(spec, bundle_bytes)
    container["resources"] = {"requests": {name: _at_most(most, name, server) for name, most in _FETCH.items()}}
    container["volumeMounts"] += [mount | {"readOnly": True} for mount in volume_mounts(spec, SERVING)]
    return container | credentials(spec)


def _server(spec: MultiTaskModelSpec, bundle_bytes: int, settings: ServerSettings) -> JsonDict:
    container = _container(SERVER_CONTAINER, SERVER_COMMAND, settings)
    resources = server_resources(spec, bundle_bytes)
    container["env"].append({"name": "OMP_NUM_THREADS", "value": str(_threads(resources))})
    container["resources"] = resources
    container["ports"] = [
        {"name": name, "containerPort": port, "protocol": "TCP"}
        for name, port in (("grpc", TRITON_PORT), ("probes", PROBE_PORT))
    ]
    container["volumeMounts"] += [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}]
    container |= {
        "startupProbe": _probe(
            "/startup",
            periodSeconds=_PROBE_SECONDS,
            timeoutSeconds=_PROBE_SECONDS,
            failureThreshold=ceil(start_seconds(bundle_bytes) / _PROBE_SECONDS),
        ),
        "readinessProbe": _probe("/ready", periodSeconds=5, timeoutSeconds=5, failureThreshold=2),
        # Tolerant: a server that is busy answers late, and to restart it would make its queue longer.
        "livenessProbe": _probe("/live", periodSeconds=20, timeoutSeconds=60, failureThreshold=3),
        "lifecycle": {"preStop": _get("/drain")},
    }
    return container


def _at_most(most: str, name: str, server: JsonObject) -> str:
    """No more than the server's: a pod holds the larger of both for as long as it lives."""
    place = f"{PLACE}.resources"
    amounts = [amount for part in ("requests", "limits") if (amount := server.get(part, {}).get(name)) is not None]
    return str(min((most, *amounts[:1]), key=lambda amount: quantity(amount, place)))


def server_resources(spec: MultiTaskModelSpec, bundle_bytes: int) -> JsonDict:
    """``spec.serving.resources``, with requests for what it leaves out: a CPU, and the bundle's bytes in memory."""
    given = resource_amounts(spec.serving.resources, f"{PLACE}.resources")
    limits = dict(given.get("limits", {}))
    memory = f"{ceil((_MEMORY + bundle_bytes) / _MIB)}Mi"
    own = {name: value for name, value in (("cpu", _CPU), ("memory", memory)) if name not in limits}
    resources = {"requests": own | given.get("requests", {}), "limits": limits, "claims": given.get("claims")}
    return {name: amounts for name, amounts in resources.items() if amounts}


def _threads(resources: JsonObject) -> int:
    for part in ("limits", "requests"):
        amount = resources.get(part, {}).get("cpu")
        if amount is not None:
            return max(1, int(quantity(amount, f"{PLACE}.resources.{part}.cpu")))
    return 1


def _container(name: str, command: tuple[str, ...], settings: ServerSettings) -> JsonDict:
    environment = user_variable(settings.fixed_user) | POD_ENVIRONMENT
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(command),
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "securityContext": SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "revision", "mountPath": REVISION_PATH, "readOnly": True},
            {"name": "export", "mountPath": EXPORT_PATH},
            {"name": "work", "mountPath": WORK_PATH},
        ],
    }


def _get(path: str) -> JsonDict:
    return {"httpGet": {"path": path, "port": "probes"}}


def _probe(path: str, **numbers: int) -> JsonDict:
    return _get(path) | numbers
