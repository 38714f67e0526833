"""Kubernetes' strategic merge patch, for pod templates: what ``kubectl patch --type strategic`` does with a Pod.

Maps merge by key and null deletes. The lists of `KEYS` merge item by item, identified by its merge key; every other
list is replaced as a whole. Directives: ``$patch: replace`` in a map or as an item of a list takes what the patch
gives and nothing of the original; ``$patch: delete`` in an item removes that item, in a map empties it;
``$retainKeys`` drops all other keys of a map, as is needed to change the source of a volume.

In a merged list the patch's items keep the patch's order and come first; an item of the original comes before an item
of the patch only if it did so in the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.errors import PodTemplateError

#: List, by its path without positions → its merge key (``patchMergeKey`` of core/v1).
_CONTAINER = {"ports": "containerPort", "env": "name", "volumeMounts": "mountPath", "volumeDevices": "devicePath"}
KEYS: Mapping[str, str] = {
    "spec.imagePullSecrets": "name",
    "spec.hostAliases": "ip",
    "spec.volumes": "name",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.resourceClaims": "name",
    "spec.schedulingGates": "name",
    **{f"spec.{kind}": "name" for kind in ("containers", "initContainers", "ephemeralContainers")},
    **{
        f"spec.{kind}.{name}": key
        for kind in ("containers", "initContainers", "ephemeralContainers")
        for name, key in _CONTAINER.items()
    },
}
_PATCH, _RETAIN = "$patch", "$retainKeys"


def merge(original: JsonDict, patch: JsonObject, place: str) -> JsonDict:
    """``original``, a pod template, with ``patch`` merged in; neither is changed.

    Raises `PodTemplateError`, with the path below ``place``, for a patch that is not one.
    """
    return _merge_maps(deepcopy(original), deepcopy(patch), place, "")


def _merge_maps(original: JsonDict, patch: Any, place: str, path: str) -> JsonDict:
    if not isinstance(patch, Mapping):
        raise PodTemplateError(f"{place}: expected a mapping, got {patch!r}")
    directive = patch.get(_PATCH)
    if directive == "delete":
        return {}
    if directive == "replace":
        original = {}
    elif directive is not None:
        raise PodTemplateError(f"{place}.{_PATCH}: {directive!r} is not known; use replace or delete")
    if _RETAIN in patch:
        original = _retained(original, patch, place)
    merged = original
    for name, value in patch.items():
        if name in (_PATCH, _RETAIN):
            continue
        if name.startswith("$"):
            raise PodTemplateError(f"{place}.{name}: not known; use {_PATCH}: replace, {_PATCH}: delete or {_RETAIN}")
        if value is None:
            merged.pop(name, None)
            continue
        merged_value = _merge_values(merged.get(name), value, f"{place}.{name}", f"{path}.{name}" if path else name)
        if merged_value is not None:
            merged[name] = merged_value
    return merged


def _merge_values(original: Any, patch: Any, place: str, path: str) -> Any:
    """The merged value of one field; None: it stays absent."""
    if path in KEYS:
        return _merge_lists(original or [], patch, place, path)
    if not isinstance(patch, Mapping) and not isinstance(original, dict):
        return patch
    if original is None and patch.get(_PATCH) == "delete":
        return None
    return _merge_maps(original if isinstance(original, dict) else {}, patch, place, path)


def _retained(original: JsonDict, patch: JsonObject, place: str) -> JsonDict:
    kept = patch[_RETAIN]
    if not isinstance(kept, Sequence) or isinstance(kept, str):
        raise PodTemplateError(f"{place}.{_RETAIN}: expected a list of field names, got {kept!r}")
    left_out = [name for name, value in patch.items() if value is not None and name not in (_RETAIN, *kept)]
    if left_out:
        raise PodTemplateError(f"{place}.{_RETAIN}: must name {', '.join(left_out)} too, which the patch gives")
    return {name: value for name, value in original.items() if name in kept}


def _merge_lists(original: list[JsonDict], patch: Any, place: str, path: str) -> list[JsonDict]:
    key = KEYS[path]
    given = _items(patch, key, place)
    deleted = [item[key] for item in given if item.get(_PATCH) == "delete"]
    replaced = any(item.get(_PATCH) == "replace" for item in given)
    original_items = [] if replaced else [item for item in original if item[key] not in deleted]
    merged = {item[key]: item for item in original_items}
    added: list[Any] = []
    for item in given:
        if _PATCH in item:
            continue
        known = item[key]
        merged[known] = _merge_maps(merged.get(known, {}), item, f"{place}[{known}]", path)
        if known not in added:
            added.append(known)
    return [merged[known] for known in _ordered([item[key] for item in original_items], added)]


def _items(patch: Any, key: str, place: str) -> list[JsonObject]:
    """The items of a list to merge, each with its merge key."""
    if not isinstance(patch, list | tuple):
        raise PodTemplateError(f"{place}: expected a list, got {patch!r}")
    for index, item in enumerate(patch):
        if not isinstance(item, Mapping):
            raise PodTemplateError(f"{place}[{index}]: expected a mapping, got {item!r}")
        directive = item.get(_PATCH)
        if directive not in (None, "delete", "replace"):
            raise PodTemplateError(f"{place}[{index}].{_PATCH}: {directive!r} is not known; use replace or delete")
        if directive != "replace" and not isinstance(item.get(key), str | int):
            raise PodTemplateError(f"{place}[{index}]: needs a {key}, the merge key of this list")
    return list(patch)


def _ordered(original: Sequence[Any], added: Sequence[Any]) -> list[Any]:
    """The patch's keys in its order; one of the original only comes before a key that it came before already."""
    position = {key: index for index, key in enumerate(original)}
    rest = [key for key in original if key not in added]
    order: list[Any] = []
    for key in added:
        while rest and key in position and position[rest[0]] < position[key]:
            order.append(rest.pop(0))
        order.append(key)
    return order + rest
