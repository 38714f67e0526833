"""The Job that sends golden requests to a revision through the gateways, with its ConfigMap."""

from __future__ import annotations

import json
from dataclasses import dataclass

from multitask_api.cluster import ROOT
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.serving_io.names import GATEWAY_AUDIENCE, REVISION_LABEL
from multitask_api.serving_io.verify import VERIFY_KEY, VERIFY_REVISION, VerifyOrder
from multitask_api.stages.digests import digest
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects import jobs
from multitask_operator.objects.names import Owner, object_metadata, short
from multitask_operator.objects.pods import PodSettings
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.user_pod_template import CONTAINER

GOLDEN_ANNOTATION = "multitask.dev/golden"
"""On Job and ConfigMap: which golden requests of the revision they are, see `multitask_operator.rollout.GoldenJob`."""
ACCESS_PATH = f"{ROOT}/gateway"
TOKEN_FILE, CA_FILE = f"{ACCESS_PATH}/token", f"{ACCESS_PATH}/ca.crt"
_CA_KEY = "ca.crt"
_MODEL = 30


@dataclass(frozen=True)
class GatewayAccess:
    """How a pod calls the gateways."""

    address: str
    ca: str = ""
    """Certificates in PEM; empty: the gateways have no TLS."""


def verify_name(model: str, revision: str, key: str) -> str:
    """The name of Job and ConfigMap."""
    return f"{short(model, _MODEL)}-verify-{digest([revision, key], 8)}"


def verify_configmap(owner: Owner, order: VerifyOrder, key: str, access: GatewayAccess) -> JsonDict:
    """The order; the pod reports into the same ConfigMap."""
    name, annotations = verify_name(owner.name, order.revision, key), {GOLDEN_ANNOTATION: key}
    item = object_metadata(owner, "v1", "ConfigMap", name, of=VERIFY_REVISION, annotations=annotations)
    item["metadata"]["labels"][REVISION_LABEL] = order.revision
    item["data"] = {VERIFY_KEY: json.dumps(order.to_json(), ensure_ascii=False, separators=(",", ":"))}
    if access.ca:
        item["data"][_CA_KEY] = access.ca
    return item


def certificates_of(configmap: JsonObject) -> str:
    """The certificates that a Job checks the gateways' against; see `GatewayAccess.ca`."""
    return str((configmap.get("data") or {}).get(_CA_KEY, ""))


def verify_job(
    owner: Owner,
    spec: MultiTaskModelSpec,
    revision: str,
    key: str,
    generation: int,
    settings: PodSettings,
    *,
    tls: bool,
) -> JsonDict:
    """A Job of one CPU pod. Raises `PodTemplateError` or `ResourcesError` for what the spec cannot ask for."""
    name = verify_name(owner.name, revision, key)
    job = jobs.stage_job(owner, spec, StageJobSpec(name, VERIFY_REVISION, generation), settings)
    job["metadata"]["labels"][REVISION_LABEL] = revision
    job["metadata"]["annotations"][GOLDEN_ANNOTATION] = key
    template = job["spec"]["template"]
    template["metadata"]["labels"][REVISION_LABEL] = revision
    sources: list[JsonDict] = [
        {"serviceAccountToken": {"audience": GATEWAY_AUDIENCE, "path": "token", "expirationSeconds": 3600}}
    ]
    if tls:
        sources.append({"configMap": {"name": name, "items": [{"key": _CA_KEY, "path": "ca.crt"}]}})
    template["spec"]["volumes"].append({"name": "gateway-access", "projected": {"sources": sources}})
    for container in template["spec"]["containers"]:
        if container["name"] == CONTAINER:
            container["volumeMounts"].append({"name": "gateway-access", "mountPath": ACCESS_PATH, "readOnly": True})
    return job
