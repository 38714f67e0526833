"""The finalizer by which a model that does not retain its artifacts waits for its clean-up. Pure."""

from __future__ import annotations

from multitask_api.cluster import FINALIZER
from multitask_api.types import JsonObject
from multitask_operator.reconciler.actions import PatchFinalizers


def has_finalizer(model: JsonObject) -> bool:
    """Whether ``model`` stays until our clean-up is over."""
    return FINALIZER in _finalizers(model)


def retains_artifacts(model: JsonObject) -> bool:
    """``spec.storage.retain``, also of a spec that cannot be read."""
    storage = (model.get("spec") or {}).get("storage") or {}
    return storage.get("retain") is not False


def finalizer_patch(model: JsonObject) -> PatchFinalizers | None:
    """Adds or removes our finalizer as ``spec.storage.retain`` requires; None if nothing has to change."""
    if has_finalizer(model) is not retains_artifacts(model):
        return None
    return without_finalizer(model) if retains_artifacts(model) else _patch(model, (*_finalizers(model), FINALIZER))


def without_finalizer(model: JsonObject) -> PatchFinalizers:
    """Removes ours; those of others stay."""
    return _patch(model, tuple(name for name in _finalizers(model) if name != FINALIZER))


def has_garbage_collector_finalizer(model: JsonObject) -> bool:
    """Whether ``model`` waits for the garbage collector, which deletes its children first (``--cascade=foreground``) or
    removes their owner references (``--cascade=orphan``)."""
    return any(name in ("foregroundDeletion", "orphan") for name in _finalizers(model))


def _finalizers(model: JsonObject) -> tuple[str, ...]:
    return tuple(model["metadata"].get("finalizers") or ())


def _patch(model: JsonObject, names: tuple[str, ...]) -> PatchFinalizers:
    return PatchFinalizers(names, model["metadata"]["resourceVersion"])
