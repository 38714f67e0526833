"""Values of a pod template that every API server refuses, found before there is one. Pure.

Only what can be known without a cluster: fields and types are known by `multitask_kubernetes.schema`, and admission
policies, quotas and limit ranges by the cluster alone. The rules are those of Kubernetes' own validation of a pod.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from multitask_api.types import JsonObject
from multitask_operator.objects.errors import ResourcesError
from multitask_operator.objects.resources import quantity

_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_LABEL_VALUE = re.compile(rf"(?:{_LABEL})?")
_QUALIFIED = re.compile(rf"(?:{_DNS}(?:\.{_DNS})*/)?{_LABEL}")
_DNS_LABEL = re.compile(_DNS)
_SUBDOMAIN = re.compile(rf"{_DNS}(?:\.{_DNS})*")
_OWN_RESOURCES = re.compile(r"cpu|memory|ephemeral-storage|hugepages-.+")
#: Resources of which a container may ask for less than its limit.
_OVERCOMMITTED = ("cpu", "memory", "ephemeral-storage")
_OPERATORS, _EFFECTS = ("Exists", "Equal", "Lt", "Gt"), ("NoSchedule", "PreferNoSchedule", "NoExecute")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_NAME_LENGTH = 253


def value_errors(template: JsonObject, place: str) -> Iterator[str]:
    """``PATH: PROBLEM`` of each value; ``template`` has the fields and types of a pod template. ``place``: its path."""
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    for part in ("labels", "annotations"):
        yield from _keys(metadata.get(part) or {}, f"{place}.metadata.{part}", has_labels=part == "labels")
    path = f"{place}.spec"
    yield from _keys(spec.get("nodeSelector") or {}, f"{path}.nodeSelector", has_labels=True)
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from _toleration(toleration, f"{path}.tolerations[{index}]")
    for name in ("priorityClassName", "runtimeClassName", "schedulerName"):
        if name in spec and not is_object_name(spec[name]):
            yield f"{path}.{name}: {spec[name]!r} is not the name of an object"
    volumes = spec.get("volumes") or ()
    for index, volume in enumerate(volumes):
        if not _DNS_LABEL.fullmatch(volume.get("name", "")):
            yield f"{path}.volumes[{index}].name: {volume.get('name', '')!r} is not a DNS label"
    names = {volume.get("name") for volume in volumes}
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or ()):
            yield from _container(container, f"{path}.{group}[{index}]", names)


def is_label_value(text: str) -> bool:
    """Whether a label may have the value."""
    return _LABEL_VALUE.fullmatch(text) is not None


def is_object_name(text: str) -> bool:
    """Whether an object may have the name: a DNS subdomain."""
    return len(text) <= _NAME_LENGTH and _SUBDOMAIN.fullmatch(text) is not None


def _keys(given: Mapping[str, str], path: str, *, has_labels: bool) -> Iterator[str]:
    for key, value in given.items():
        if not _QUALIFIED.fullmatch(key):
            yield f"{path}[{key}]: {key!r} is not the name of a label; it is NAME or DOMAIN/NAME"
        if has_labels and not is_label_value(value):
            yield f"{path}[{key}]: {value!r} is not a label's value: at most 63 letters, digits, -, _ and ."


def _toleration(given: JsonObject, path: str) -> Iterator[str]:
    operator, effect = given.get("operator", "Equal"), given.get("effect", "")
    if operator not in _OPERATORS:
        yield f"{path}.operator: {operator!r} is not known; use Exists or Equal"
    if effect and effect not in _EFFECTS:
        yield f"{path}.effect: {effect!r} is not known; use {', '.join(_EFFECTS)}, or leave it out for all"
    if not given.get("key") and operator != "Exists":
        yield f"{path}.operator: without a key it has to be Exists"
    if given.get("key") and not _QUALIFIED.fullmatch(given["key"]):
        yield f"{path}.key: {given['key']!r} is not the name of a taint"
    if operator == "Exists" and given.get("value"):
        yield f"{path}.value: remove it; operator Exists takes every value"
    if "tolerationSeconds" in given and effect != "NoExecute":
        yield f"{path}.effect: tolerationSeconds is for NoExecute alone"


def _container(given: JsonObject, path: str, volumes: set[Any]) -> Iterator[str]:
    if not _DNS_LABEL.fullmatch(given.get("name", "")):
        yield f"{path}.name: {given.get('name', '')!r} is not a DNS label"
    if not given.get("image"):
        yield f"{path}.image: missing"
    policy = given.get("imagePullPolicy")
    if policy and policy not in _PULL_POLICIES:
        yield f"{path}.imagePullPolicy: {policy!r} is not known; use {', '.join(_PULL_POLICIES)}"
    for index, mount in enumerate(given.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            yield f"{path}.volumeMounts[{index}].name: there is no volume {mount.get('name')!r}"
    yield from _resources(given.get("resources") or {}, f"{path}.resources")


def _resources(given: JsonObject, path: str) -> Iterator[str]:
    amounts: dict[str, dict[str, Decimal]] = {"limits": {}, "requests": {}}
    for part, known in amounts.items():
        for name, value in (given.get(part) or {}).items():
            place = f"{path}.{part}[{name}]"
            if not (_OWN_RESOURCES.fullmatch(name) or ("/" in name and _QUALIFIED.fullmatch(name))):
                yield f"{place}: {name!r} is no resource; cpu, memory, ephemeral-storage, or DOMAIN/NAME of a device"
            try:
                known[name] = quantity(value, place)
            except ResourcesError as error:
                yield str(error)
    yield from _beyond_limits(amounts["requests"], amounts["limits"], path)


def _beyond_limits(
    requests: Mapping[str, Decimal], limits: Mapping[str, Decimal], path: str, plain: Sequence[str] = _OVERCOMMITTED
) -> Iterator[str]:
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is not None and amount > limit:
            yield f"{path}.requests[{name}]: more than the limit"
        elif name not in plain and limit != amount:
            yield f"{path}.requests[{name}]: has to be the limit of {name}, which cannot be shared"
