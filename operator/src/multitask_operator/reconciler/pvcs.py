"""Whether the claims that a model names can serve its Jobs, checked before any pod waits for one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.types import JsonObject
from multitask_operator.objects import volumes
from multitask_operator.objects.pod_layers import Layer, pod_layers
from multitask_operator.reconciler.blockers import NOT_SHARED, Blocker
from multitask_operator.reconciler.state.cluster_state import named_pvc_names
from multitask_operator.settings import PodDefaults

Pvcs = Mapping[str, JsonObject | None]

_SHARED = ("ReadWriteMany", "ReadOnlyMany")


def claims_blocked(spec: MultiTaskModelSpec, pvcs: Pvcs) -> Blocker | None:
    """A claim is missing, being deleted or lost, or bound to one node while a training Job spans several."""
    for name, pvc in pvcs.items():
        blocker = claim_unusable(name, pvc)
        if blocker is not None:
            return blocker
        if spec.training.nodes > 1 and pvc is not None and not _is_shared(pvc):
            return Blocker(
                NOT_SHARED,
                f"training.nodes is {spec.training.nodes} and claim {name!r} offers {', '.join(access_modes(pvc))}:"
                " pods on several nodes need ReadWriteMany; use such a claim or s3:// storage, or set training.nodes"
                " to 1",
            )
    return None


def claim_unusable(name: str, pvc: JsonObject | None) -> Blocker | None:
    """No pod can mount the claim, now or later."""
    if pvc is None:
        return Blocker("ClaimMissing", f"PersistentVolumeClaim {name!r} does not exist in this namespace; create it")
    if pvc.get("metadata", {}).get("deletionTimestamp"):
        return Blocker(
            "ClaimDeleted",
            f"PersistentVolumeClaim {name!r} is being deleted, and no new pod may mount it; when it is gone, create it"
            " again",
        )
    if pvc.get("status", {}).get("phase") == "Lost":
        return Blocker("ClaimLost", f"PersistentVolumeClaim {name!r} has lost its volume; restore or replace it")
    return None


def single_node_claims(spec: MultiTaskModelSpec, kind: str, pvcs: Pvcs) -> frozenset[str]:
    """The claims that a Job of ``kind`` mounts and that only one node at a time can mount.

    If two Jobs shared one, a pod on another node would wait until the first Job has ended, and keep its GPUs meanwhile.
    """
    return frozenset(claims_of_one_node(spec, kind, pod_layers(spec, kind, PodDefaults()), pvcs))


def claims_of_one_node(
    spec: MultiTaskModelSpec, kind: str, layers: Iterable[Layer], pvcs: Pvcs
) -> dict[str, JsonObject]:
    """The claims that pods of ``kind`` with these pod templates mount and one node alone can mount, by name."""
    templates = {"spec": [layer.given for layer in layers]}
    mounted = {*volumes.mounted_pvc_names(spec, kind), *named_pvc_names(templates)}
    return {name: pvc for name in sorted(mounted) if (pvc := pvcs.get(name)) is not None and not _is_shared(pvc)}


def _is_shared(pvc: JsonObject) -> bool:
    return any(mode in _SHARED for mode in access_modes(pvc))


def access_modes(pvc: JsonObject) -> list[str]:
    """Those of its volume, before it has one those that it asks for."""
    modes: list[str] = pvc.get("status", {}).get("accessModes") or pvc.get("spec", {}).get("accessModes", [])
    return modes
