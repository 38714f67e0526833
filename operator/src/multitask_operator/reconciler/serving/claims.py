"""Claims that only one node can mount: servers hold them for life, and others need them meanwhile. Pure.

ReadWriteOnce is for the pods of one node, ReadWriteOncePod for one pod. The Job that verifies a revision, the next
training and the servers of the next revision all start while servers run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multitask_api.serving_io.names import SERVING
from multitask_api.types import JsonObject
from multitask_operator.formatting import listed
from multitask_operator.objects.pod_layers import STAGE_KINDS, Layer, pod_layers
from multitask_operator.objects.serving.pods import server_layers
from multitask_operator.objects.volumes import mounted_pvc_names
from multitask_operator.reconciler.blockers import NOT_SHARED, Blocker
from multitask_operator.reconciler.conditions import ConditionValue
from multitask_operator.reconciler.pvcs import access_modes, claims_of_one_node
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.revision_state import revision_label
from multitask_operator.settings import Settings

_HOSTNAME = "kubernetes.io/hostname"
_OTHER_STORAGE = "use a ReadWriteMany claim or s3:// storage"
_SERVERS_ON_ONE_NODE = f"nodeSelector {_HOSTNAME} in spec.serving.podTemplate"
_ALL_ON_ONE_NODE = f"{_SERVERS_ON_ONE_NODE} and spec.training.podTemplate"


def servers_apart(state: ModelState, settings: Settings) -> Blocker | None:
    """Servers, or a server and a Job that it needs, that surely cannot mount a claim together."""
    return next(_certain(state, settings), None)


def claim_warning(state: ModelState, settings: Settings) -> ConditionValue | None:
    """What `servers_apart` says, also before there is a revision; or that it depends on where pods happen to run."""
    if not settings.serving_image or state.model.spec.serving.replicas == 0:
        return None
    found = next(_certain(state, settings), None) or next(_by_chance(state, settings), None)
    return None if found is None else ConditionValue("True", found.reason, found.message)


def _certain(state: ModelState, settings: Settings) -> Iterator[Blocker]:
    spec, servers_on, jobs_on = state.model.spec, _servers_node(state, settings), _jobs_node(state, settings)
    replicas = spec.serving.replicas
    elsewhere = sorted(_nodes_of_servers(state) - {servers_on})
    for name, modes in _held(state, settings):
        if modes == ["ReadWriteOncePod"] and replicas > 0:
            text = "one pod at a time can mount it, and servers hold it beside the Job that verifies them"
            yield _blocker(f"claim {name!r} offers ReadWriteOncePod: {text}; {_OTHER_STORAGE}")
        elif replicas > 1 and servers_on is None:
            text = f"spec.serving.replicas is {replicas} and {_offers(name, modes)}: servers on several nodes need"
            cure = f"set spec.serving.replicas to 1, or keep all servers on one node with {_SERVERS_ON_ONE_NODE}"
            yield _blocker(f"{text} ReadWriteMany; use such a claim or s3:// storage, {cure}")
        elif servers_on is not None and elsewhere:
            text = f"servers run on {listed(elsewhere)} and hold it, and those of another revision are to run on"
            cure = f"name {elsewhere[0]} in spec.serving.podTemplate, or set spec.serving.replicas to 0 for a moment"
            yield _blocker(f"{_offers(name, modes)}: {text} {servers_on}; {cure}, or {_OTHER_STORAGE}")
        elif servers_on is not None and jobs_on not in (None, servers_on) and _is_storage(state, name):
            text = f"spec.serving.podTemplate keeps the servers on {servers_on}, and they hold it"
            other = f"spec.training.podTemplate keeps the Jobs on {jobs_on}"
            yield _blocker(f"{_offers(name, modes)}: {text}, and {other}; name one node in both, or {_OTHER_STORAGE}")


def _by_chance(state: ModelState, settings: Settings) -> Iterator[Blocker]:
    servers_on, jobs_on = _servers_node(state, settings), _jobs_node(state, settings)
    for name, modes in _held(state, settings):
        others = ["the servers of the next revision"] if servers_on is None else []
        if _is_storage(state, name) and (servers_on is None or jobs_on is None):
            others = ["the Job that verifies a revision", "the next training", *others]
        if others:
            nodes = sorted(_nodes_of_servers(state))
            node = f" (now {listed(nodes)})" if nodes else ""
            text = f"the servers hold it for as long as they run, and {listed(others)} can mount it on their node{node}"
            yield _blocker(
                f"{_offers(name, modes)}: {text} only; {_OTHER_STORAGE}, or keep all on one node with"
                f" {_ALL_ON_ONE_NODE}"
            )


def _held(state: ModelState, settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """The claims that a server mounts and one node alone can mount, with their access modes."""
    spec = state.model.spec
    layers = server_layers(spec, settings.serving_pods)
    for name, pvc in claims_of_one_node(spec, SERVING, layers, state.cluster.pvcs).items():
        yield name, access_modes(pvc)


def _is_storage(state: ModelState, claim: str) -> bool:
    return claim in mounted_pvc_names(state.model.spec, SERVING)


def _nodes_of_servers(state: ModelState) -> set[str]:
    """Where servers run. A node's name and its label kubernetes.io/hostname are the same but for rare clouds."""
    pods = (pod for pod in state.cluster.pods if revision_label(pod))
    return {node for pod in pods if (node := (pod.get("spec") or {}).get("nodeName"))}


def _servers_node(state: ModelState, settings: Settings) -> str | None:
    return one_node(server_layers(state.model.spec, settings.serving_pods))


def _jobs_node(state: ModelState, settings: Settings) -> str | None:
    nodes = {one_node(pod_layers(state.model.spec, kind, settings.stage_pods)) for kind in STAGE_KINDS}
    return nodes.pop() if len(nodes) == 1 else None


def one_node(layers: Sequence[Layer]) -> str | None:
    """The node that pod templates keep all their pods on, by the last that names one; None: several nodes may do."""
    found = [node for layer in layers if (node := _node_of(_mapping(layer.given.get("spec")))) is not None]
    return found[-1] if found else None


def _node_of(pod: JsonObject) -> str | None:
    affinity = _mapping(_mapping(pod.get("affinity")).get("nodeAffinity"))
    required = _mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    by_affinity = [_node_of_term(_mapping(term)) for term in _list(required.get("nodeSelectorTerms"))]
    node = pod.get("nodeName") or _mapping(pod.get("nodeSelector")).get(_HOSTNAME)
    # Of several terms one is enough.
    return str(node) if node else by_affinity[0] if len(by_affinity) == 1 else None


def _node_of_term(term: JsonObject) -> str | None:
    for key, group in ((_HOSTNAME, "matchExpressions"), ("metadata.name", "matchFields")):
        for expression in map(_mapping, _list(term.get(group))):
            values = _list(expression.get("values"))
            if (expression.get("key"), expression.get("operator"), len(values)) == (key, "In", 1):
                return str(values[0])
    return None


def _offers(name: str, modes: Sequence[str]) -> str:
    return f"claim {name!r} offers {', '.join(modes)}"


def _blocker(message: str) -> Blocker:
    return Blocker(NOT_SHARED, message)


def _mapping(value: object) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
