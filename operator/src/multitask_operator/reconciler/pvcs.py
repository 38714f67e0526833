"""Whether the claims a model names can carry what it asks for, before any pod waits for one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multitask_api.resource import MultiTaskModelSpec
from multitask_operator.objects import volumes
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.cluster_state import pvc_names

Pvcs = Mapping[str, Mapping[str, Any] | None]

_SHARED = ("ReadWriteMany", "ReadOnlyMany")


def blocker(spec: MultiTaskModelSpec, claims: Pvcs) -> Blocker | None:
    """A claim that is missing, lost, or not shared while one training Job spans several nodes."""
    for name, claim in claims.items():
        found = unusable(name, claim)
        if found is not None:
            return found
        if spec.training.nodes > 1 and claim is not None and not _shared(claim):
            return Blocker(
                "StorageNotShared",
                f"training.nodes is {spec.training.nodes} and claim {name!r} offers {', '.join(_modes(claim))}: pods on"
                " several nodes need ReadWriteMany; use such a claim or s3:// storage, or set training.nodes to 1",
            )
    return None


def unusable(name: str, claim: Mapping[str, Any] | None) -> Blocker | None:
    """A claim that no pod can mount, now or later."""
    if claim is None:
        return Blocker("ClaimMissing", f"PersistentVolumeClaim {name!r} does not exist in this namespace; create it")
    if claim.get("metadata", {}).get("deletionTimestamp"):
        return Blocker(
            "ClaimDeleted",
            f"PersistentVolumeClaim {name!r} is being deleted, and no new pod may mount it; when it is gone, create it"
            " again",
        )
    if claim.get("status", {}).get("phase") == "Lost":
        return Blocker("ClaimLost", f"PersistentVolumeClaim {name!r} has lost its volume; restore or replace it")
    return None


def single_node(spec: MultiTaskModelSpec, kind: str, claims: Pvcs) -> frozenset[str]:
    """The claims that a Job of ``kind`` mounts and that mount on one node at a time.

    Of two Jobs that share one, the pod on the other node would wait until the first has ended, and hold its GPUs.
    """
    mounted = {*volumes.pvc_names(spec, kind), *pvc_names({"spec": spec.training.pod_template})}
    return frozenset(name for name in mounted if (claim := claims.get(name)) is not None and not _shared(claim))


def _shared(claim: Mapping[str, Any]) -> bool:
    return any(mode in _SHARED for mode in _modes(claim))


def _modes(claim: Mapping[str, Any]) -> list[str]:
    modes: list[str] = claim.get("status", {}).get("accessModes") or claim.get("spec", {}).get("accessModes", [])
    return modes
