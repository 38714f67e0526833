"""Whether an object still has what was applied to it. Pure.

The API server adds defaults, drops empty values and writes quantities in its own form, and others may add what is not
ours to decide: labels, sidecars, tolerations of a policy. So the question is whether everything that we want is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multitask_api.types import JsonObject
from multitask_operator.objects.errors import ResourcesError
from multitask_operator.objects.merge import KEYS
from multitask_operator.objects.resources import quantity
from multitask_operator.reconciler.state.accessors import controller_uid

_TEMPLATE = "spec.template."


def differs(existing: JsonObject, wanted: JsonObject) -> bool:
    """Whether ``existing`` lacks something of ``wanted``, or has it otherwise; its owner, labels and spec count."""
    metadata, own = existing["metadata"], wanted["metadata"]
    return (
        controller_uid(existing) != controller_uid(wanted)
        or not _has(metadata.get("labels"), own.get("labels"), "metadata.labels")
        or not _has(metadata.get("annotations"), own.get("annotations"), "metadata.annotations")
        or not _has(existing.get("spec"), wanted.get("spec"), "spec")
        or not _has(existing.get("data"), wanted.get("data"), "data")
    )


def _has(existing: Any, wanted: Any, path: str) -> bool:
    """``path`` without positions."""
    if not wanted and not isinstance(wanted, int):
        # An empty list says that there is to be nothing, an empty mapping is there or not.
        return not existing if isinstance(wanted, list | tuple) else True
    if isinstance(wanted, Mapping):
        return isinstance(existing, Mapping) and all(
            _has(existing.get(name), value, f"{path}.{name}") for name, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return isinstance(existing, list | tuple) and _has_items(existing, wanted, path)
    return _is_same(existing, wanted)


def _has_items(existing: Sequence[Any], wanted: Sequence[Any], path: str) -> bool:
    key = KEYS.get(path.removeprefix(_TEMPLATE)) if path.startswith(_TEMPLATE) else None
    if key is None:
        return len(existing) == len(wanted) and all(_has(*pair, path) for pair in zip(existing, wanted, strict=True))
    by_key = {item.get(key): item for item in existing if isinstance(item, Mapping)}
    return all(_has(by_key.get(item.get(key)), item, path) for item in wanted)


def _is_same(existing: Any, wanted: Any) -> bool:
    if existing == wanted:
        return True
    if existing is None:
        return not wanted  # the API server drops false and 0 where they are the default
    try:
        return quantity(existing, "") == quantity(wanted, "")
    except ResourcesError:
        return False
