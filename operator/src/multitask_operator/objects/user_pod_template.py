"""Merges an additional pod template, and rejects changes of what the operator and its pods rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multitask_api.cluster import CONFIGMAP_VARIABLE, GROUP, MANAGED_BY_LABEL, MOUNTS_VARIABLE, ROOT, WORK_PATH
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.errors import PodTemplateError
from multitask_operator.objects.merge import merge

CONTAINER = "trainer"
_METADATA = ("labels", "annotations")
#: Field of the pod's spec → what to do instead.
_POD_FIELDS = {
    "restartPolicy": "remove it; the operator handles the end of a stage and its retries",
    "serviceAccountName": "remove it; spec.serviceAccountName sets it",
    "serviceAccount": "remove it; spec.serviceAccountName sets it",
    "automountServiceAccountToken": "remove it; the pod reports with this token",
    "hostname": "remove it; the pods of a stage find each other by their names",
    "subdomain": "remove it; the pods of a stage find each other by their names",
}


@dataclass(frozen=True)
class Protected:
    """What a template must not change: the operator, or the programs in the pod, rely on it."""

    pod_fields: Mapping[str, str]
    """Field of the pod's spec → what to do instead."""
    containers: Sequence[str]
    """Containers of the operator's own, also init containers."""
    program: str
    """What runs in them, for messages."""
    variables: Sequence[str]


OF_STAGES = Protected(_POD_FIELDS, (CONTAINER,), "the stage", (CONFIGMAP_VARIABLE, MOUNTS_VARIABLE))


def apply_user_template(
    template: JsonDict, given: JsonObject, place: str, protected: Protected = OF_STAGES
) -> JsonDict:
    """``template`` with ``given``, which was written at ``place``, merged in.

    Raises `PodTemplateError` if that is no pod template, or changes what may not be changed.
    """
    for name in given:
        if name not in ("metadata", "spec"):
            raise PodTemplateError(f"{place}.{name}: not known; a pod template has metadata and spec")
    merged = merge(template, given, place)
    for field, advice in _changes(template, merged, protected):
        raise PodTemplateError(f"{place}.{field}: {advice}")
    return merged


def _changes(before: JsonDict, after: JsonDict, protected: Protected) -> Iterator[tuple[str, str]]:
    """(field, what to do) of every change that is not allowed."""
    yield from _metadata(before, after)
    old, new = before["spec"], after.get("spec", {})
    for name, advice in protected.pod_fields.items():
        if old.get(name) != new.get(name):
            yield f"spec.{name}", advice
    for group in ("containers", "initContainers"):
        for name in _items(old, group, "name"):
            if name in protected.containers:
                yield from _container(old, new, group, name, protected)
    yield from _volumes(old, new)


def _metadata(before: JsonDict, after: JsonDict) -> Iterator[tuple[str, str]]:
    for part in _METADATA:
        old, new = (each.get("metadata", {}).get(part, {}) for each in (before, after))
        for name in sorted(old.keys() | new.keys()):
            ours = name == MANAGED_BY_LABEL or name.startswith(f"{GROUP}/")
            if ours and old.get(name) != new.get(name):
                yield f"metadata.{part}[{name}]", "remove it; the operator finds its pods by it"


def _container(
    before: JsonDict, after: JsonDict, group: str, container: str, protected: Protected
) -> Iterator[tuple[str, str]]:
    place = f"spec.{group}[{container}]"
    old = _items(before, group, "name")[container]
    new = _items(after, group, "name").get(container)
    if new is None:
        yield place, f"keep it; it runs {protected.program}"
        return
    for name in ("command", "args"):
        if old.get(name) != new.get(name):
            yield f"{place}.{name}", f"remove it; the operator sets what {protected.program} runs"
    variables, changed = (_items(each, "env", "name") for each in (old, new))
    for name in protected.variables:
        if variables.get(name) != changed.get(name):
            yield f"{place}.env[{name}]", "remove it; the operator sets it"
    mounts, moved = (_items(each, "volumeMounts", "mountPath") for each in (old, new))
    for path in sorted(mounts.keys() | moved.keys()):
        if str(path).startswith(f"{ROOT}/") and path != WORK_PATH and mounts.get(path) != moved.get(path):
            yield f"{place}.volumeMounts[{path}]", f"remove it; what lies below {ROOT} is the operator's"
    if WORK_PATH not in moved:
        yield (
            f"{place}.volumeMounts[{WORK_PATH}]",
            f"keep it; {protected.program} writes there. It may be another volume",
        )


def _volumes(before: JsonDict, after: JsonDict) -> Iterator[tuple[str, str]]:
    """The volumes of orders and claims stay; work and shared memory may come from anywhere."""
    old, new = (_items(each, "volumes", "name") for each in (before, after))
    for name, volume in old.items():
        if "emptyDir" not in volume and new.get(name) != volume:
            yield f"spec.volumes[{name}]", "remove it; the operator mounts it. Give your own volume another name"
    for name, volume in new.items():
        sources = sorted(volume.keys() - {"name"})
        if len(sources) > 1:
            added = [source for source in sources if source not in old.get(name, {})] or sources
            advice = f"to keep one, add $retainKeys: [name, {added[0]}]"
            yield f"spec.volumes[{name}]", f"has {' and '.join(sources)}; {advice}"


def _items(owner: JsonDict, name: str, key: str) -> dict[Any, JsonDict]:
    items: Sequence[JsonDict] = owner.get(name) or ()
    return {item[key]: item for item in items}
