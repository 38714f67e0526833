"""Whether the claims a model names can carry what it asks for, before any pod waits for one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multitask_api.resource import MultiTaskModelSpec
from multitask_operator.reconciler.blocking import Blocker

Claims = Mapping[str, Mapping[str, Any] | None]

_SHARED = ("ReadWriteMany", "ReadOnlyMany")


def blocker(spec: MultiTaskModelSpec, claims: Claims) -> Blocker | None:
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
        return Blocker("ClaimDeleted", f"PersistentVolumeClaim {name!r} is being deleted; use another")
    if claim.get("status", {}).get("phase") == "Lost":
        return Blocker("ClaimLost", f"PersistentVolumeClaim {name!r} has lost its volume; restore or replace it")
    return None


def parallel_jobs(spec: MultiTaskModelSpec, claims: Claims) -> tuple[int, str]:
    """How many stage Jobs may run at once, and why it is less than asked for.

    A claim that mounts on one node at a time would leave every pod on another node waiting for ever.
    """
    asked = spec.training.max_parallel_jobs
    single = sorted(name for name, claim in claims.items() if claim is not None and not _shared(claim))
    if not single or asked == 1:
        return asked, ""
    return 1, f"one Job at a time: claim {single[0]!r} mounts on one node only"


def _shared(claim: Mapping[str, Any]) -> bool:
    return any(mode in _SHARED for mode in _modes(claim))


def _modes(claim: Mapping[str, Any]) -> list[str]:
    modes: list[str] = claim.get("status", {}).get("accessModes") or claim.get("spec", {}).get("accessModes", [])
    return modes
