"""A revision as the cluster shows it: its record, its objects and its pods. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multitask_api.serving_io.names import IMAGE_ANNOTATION, REVISION_LABEL, SERVER_CONTAINER, SERVING
from multitask_api.serving_io.revision import REVISION_KEY, Revision
from multitask_api.types import JsonObject
from multitask_operator.objects.serving.names import serving_name
from multitask_operator.objects.serving.revisions import TEMPLATE_KEY
from multitask_operator.reconciler.state.accessors import created_at, is_being_deleted, kind_label, parse_time
from multitask_operator.reconciler.state.cluster_state import ClusterState

#: What a Deployment has that says nothing of it.
_PROGRESS_DEADLINE = 600


@dataclass(frozen=True)
class RevisionState:
    """What there is of one revision."""

    name: str
    """8 hexadecimal digits."""
    record: Revision | None = None
    """None: the ConfigMap is gone, or somebody replaced it by another one."""
    template: JsonObject | None = None
    """The pod template of its record; without a record that of its Deployment."""
    adopted: str | None = None
    """The value of the annotation that asked for its image."""
    configmap: JsonObject | None = None
    deployment: JsonObject | None = None
    service: JsonObject | None = None
    network_policy: JsonObject | None = None
    disruption_budget: JsonObject | None = None
    pods: tuple[JsonObject, ...] = ()
    """Those that are not being deleted."""
    ready_endpoints: int = 0
    """Servers that the gateways may send requests to."""

    @classmethod
    def from_record(cls, configmap: JsonObject, name: str) -> RevisionState:
        """A revision that has nothing but its record."""
        record, template = _read(configmap, name)
        adopted = (configmap["metadata"].get("annotations") or {}).get(IMAGE_ANNOTATION)
        return cls(name, record, template, adopted, configmap)

    @property
    def age_order(self) -> tuple[int, str, str]:
        """Greater for a later revision."""
        generation = self.record.generation if self.record is not None else 0
        item = self.configmap or self.deployment
        return generation, created_at(item) if item is not None else "", self.name

    @property
    def image(self) -> str | None:
        """The image of its servers."""
        if self.record is not None:
            return self.record.image
        pod = (self.template or {}).get("spec", {})
        servers = (each for each in pod.get("containers", ()) if each.get("name") == SERVER_CONTAINER)
        image: str | None = next((each.get("image") for each in servers), None)
        return image

    @property
    def replicas(self) -> int:
        """Servers that its Deployment asks for; 0 without one."""
        return int((self.deployment or {}).get("spec", {}).get("replicas", 0))

    @property
    def start_seconds(self) -> float:
        """Seconds after which its servers are overdue."""
        spec = (self.deployment or {}).get("spec", {})
        return float(spec.get("progressDeadlineSeconds", _PROGRESS_DEADLINE))

    @property
    def restarted(self) -> float | None:
        """See `LiveRevision.restarted`."""
        servers = (
            status
            for pod in self.pods
            for status in pod.get("status", {}).get("containerStatuses") or ()
            if status["name"] == SERVER_CONTAINER
        )
        return max(filter(None, map(_restarted, servers)), default=None)

    @property
    def objects(self) -> Iterator[JsonObject]:
        """Those that exist, the record last: what it describes must not outlive it."""
        items = (self.deployment, self.disruption_budget, self.network_policy, self.service, self.configmap)
        return (item for item in items if item is not None)


def revision_states(cluster: ClusterState) -> dict[str, RevisionState]:
    """Name → revision, the newest first."""
    lists = (
        cluster.configmaps,
        cluster.deployments,
        cluster.services,
        cluster.network_policies,
        cluster.disruption_budgets,
    )
    names = {name for items in lists for item in items if (name := revision_label(item))}
    states = [_revision_state(cluster, name) for name in names]
    return {state.name: state for state in sorted(states, key=lambda state: state.age_order, reverse=True)}


def _revision_state(cluster: ClusterState, name: str) -> RevisionState:
    configmap, deployment = _find(cluster.configmaps, cluster, name), _find(cluster.deployments, cluster, name)
    record, template = _read(configmap, name)
    if template is None and deployment is not None:
        template = deployment.get("spec", {}).get("template")
    annotations = ((configmap or deployment or {}).get("metadata") or {}).get("annotations") or {}
    return RevisionState(
        name=name,
        record=record,
        template=template,
        adopted=annotations.get(IMAGE_ANNOTATION),
        configmap=configmap,
        deployment=deployment,
        service=_find(cluster.services, cluster, name),
        network_policy=_find(cluster.network_policies, cluster, name),
        disruption_budget=_find(cluster.disruption_budgets, cluster, name),
        pods=tuple(pod for pod in cluster.pods if revision_label(pod) == name and not is_being_deleted(pod)),
        ready_endpoints=len(_ready_endpoints(cluster.endpoint_slices, serving_name(cluster.name, name))),
    )


def _restarted(container: JsonObject) -> float | None:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    if "running" in state:
        return parse_time(state["running"]["startedAt"]) if "terminated" in last else None
    return math.inf if "terminated" in {**state, **last} else None


def _find(items: Sequence[JsonObject], cluster: ClusterState, revision: str) -> JsonObject | None:
    name = serving_name(cluster.name, revision)
    return next((item for item in items if item["metadata"]["name"] == name and revision_label(item) == revision), None)


def revision_label(item: JsonObject) -> str:
    """The revision that an object belongs to; empty for one that serves nothing."""
    labels = item["metadata"].get("labels") or {}
    return str(labels.get(REVISION_LABEL, "")) if kind_label(item) == SERVING else ""


def _read(configmap: JsonObject | None, name: str) -> tuple[Revision | None, JsonObject | None]:
    try:
        data = (configmap or {})["data"]
        record = Revision.model_validate_json(data[REVISION_KEY])
        template = json.loads(data[TEMPLATE_KEY])
    except (KeyError, TypeError, ValueError):
        return None, None
    is_it = record.revision == name and isinstance(template, dict)
    return (record, template) if is_it else (None, None)


def _ready_endpoints(slices: Sequence[JsonObject], service: str) -> set[str]:
    """The pods, each once: of a service with two IP families each has a slice."""
    ready = set()
    for item in slices:
        if (item["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service:
            for endpoint in item.get("endpoints") or ():
                conditions = endpoint.get("conditions") or {}
                if conditions.get("ready", True) is not False and not conditions.get("terminating"):
                    pod = (endpoint.get("targetRef") or {}).get("name")
                    ready.add(pod or ",".join(endpoint.get("addresses") or ()))
    return ready
