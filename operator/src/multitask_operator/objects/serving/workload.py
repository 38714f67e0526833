"""Deployment, Service, NetworkPolicy and PodDisruptionBudget of a revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multitask_api.serving_io.names import TRITON_PORT
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.names import Owner
from multitask_operator.objects.serving.names import revision_labels, revision_object


@dataclass(frozen=True)
class Gateways:
    """Where the installation's gateways are."""

    namespace: str
    labels: Mapping[str, str]


def deployment(
    owner: Owner,
    revision: str,
    template: JsonObject,
    replicas: int,
    start_seconds: int,
    annotations: Mapping[str, str] | None = None,
) -> JsonDict:
    """``replicas`` server pods of ``revision``; ``template`` and ``annotations`` are those of its ConfigMap.

    ``start_seconds``: see `objects.serving.pods.start_seconds`; to fetch may take as long again.
    """
    item = revision_object(owner, "apps/v1", "Deployment", revision, annotations)
    item["spec"] = {
        "replicas": replicas,
        "selector": {"matchLabels": revision_labels(owner.name, revision)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": 2 * start_seconds,
        "template": dict(template),
    }
    return item


def service(owner: Owner, revision: str) -> JsonDict:
    """The headless Service whose EndpointSlices tell the gateways which servers are ready."""
    item = revision_object(owner, "v1", "Service", revision)
    item["spec"] = {
        "clusterIP": "None",
        "selector": revision_labels(owner.name, revision),
        "ports": [{"name": "grpc", "port": TRITON_PORT, "targetPort": "grpc", "protocol": "TCP"}],
    }
    return item


def network_policy(owner: Owner, revision: str, gateways: Gateways | None) -> JsonDict:
    """Only the gateways reach the servers; without any, nobody does.

    Probes need no rule: a pod's own node always reaches it.
    """
    item = revision_object(owner, "networking.k8s.io/v1", "NetworkPolicy", revision)
    item["spec"] = {
        "podSelector": {"matchLabels": revision_labels(owner.name, revision)},
        "policyTypes": ["Ingress"],
        "ingress": [] if gateways is None else [_from_gateways(gateways)],
    }
    return item


def _from_gateways(gateways: Gateways) -> JsonDict:
    peer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": gateways.namespace}},
        "podSelector": {"matchLabels": dict(gateways.labels)},
    }
    return {"from": [peer], "ports": [{"protocol": "TCP", "port": TRITON_PORT}]}


def disruption_budget(owner: Owner, revision: str) -> JsonDict:
    """One server at a time may be evicted; one that is not ready always, or it would block the drain of its node."""
    item = revision_object(owner, "policy/v1", "PodDisruptionBudget", revision)
    item["spec"] = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": revision_labels(owner.name, revision)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return item
