"""The finalizer by which a model that does not retain its artifacts waits for its clean-up. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.cluster import FINALIZER
from multitask_operator.objects.actions import Delete, PatchFinalizers
from multitask_operator.reconciler.cluster_state import Object


def is_being_deleted(item: Object | None) -> bool:
    """Whether an object is being deleted."""
    return item is not None and "deletionTimestamp" in item["metadata"]


def has_finalizer(model: Object) -> bool:
    """Whether ``model`` stays until our clean-up is over."""
    return FINALIZER in _finalizers(model)


def retains(model: Object) -> bool:
    """``spec.storage.retain``, also of a spec that cannot be read."""
    storage = (model.get("spec") or {}).get("storage") or {}
    return storage.get("retain") is not False


def finalizers(model: Object) -> PatchFinalizers | None:
    """What makes the finalizer of ``model`` what its spec wants; None where it is so."""
    if has_finalizer(model) is not retains(model):
        return None
    return without_finalizer(model) if retains(model) else _patched(model, (*_finalizers(model), FINALIZER))


def without_finalizer(model: Object) -> PatchFinalizers:
    """Without ours; those of others stay."""
    return _patched(model, tuple(name for name in _finalizers(model) if name != FINALIZER))


def is_collected(model: Object) -> bool:
    """Whether the garbage collector is at the children of ``model`` (``--cascade=foreground`` or ``orphan``)."""
    return any(name in ("foregroundDeletion", "orphan") for name in _finalizers(model))


def deletes_of(*items: Object | None) -> Iterator[Delete]:
    """What deletes those that are there and not going yet."""
    for item in items:
        if item is not None and not is_being_deleted(item):
            metadata = item["metadata"]
            yield Delete(item["kind"], item["apiVersion"], metadata["name"], metadata["uid"])


def _finalizers(model: Object) -> tuple[str, ...]:
    return tuple(model["metadata"].get("finalizers") or ())


def _patched(model: Object, names: tuple[str, ...]) -> PatchFinalizers:
    return PatchFinalizers(names, model["metadata"]["resourceVersion"])
