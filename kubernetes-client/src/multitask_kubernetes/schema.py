"""Which fields an object of Kubernetes has, and of which types, as the client's own models know them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from kubernetes.aio.client import models

#: Texts in the API's description that may be numbers in a file: (model, attribute).
_QUANTITIES = frozenset(
    {
        ("V1ResourceRequirements", "limits"),
        ("V1ResourceRequirements", "requests"),
        ("V1VolumeResourceRequirements", "limits"),
        ("V1VolumeResourceRequirements", "requests"),
        ("V1EmptyDirVolumeSource", "size_limit"),
        ("V1ResourceFieldSelector", "divisor"),
        ("V1PodSpec", "overhead"),
    }
)
_LIST, _MAP = re.compile(r"[Ll]ist\[(.+)\]"), re.compile(r"[Dd]ict[\[(]\w+, (.+)[\])]")
_SCALARS: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
_WORDS = {"str": "text; quote it", "int": "a whole number", "float": "a number", "bool": "true or false"}


def pod_template_errors(template: object, place: str) -> Iterator[str]:
    """``PATH: PROBLEM`` of each field of a pod template that Kubernetes does not know, or that has another type.

    ``place`` is the path of the template. Values are not looked at.
    """
    yield from _errors(template, "V1PodTemplateSpec", place)


def _errors(value: Any, type_: str, path: str, *, is_quantity: bool = False) -> Iterator[str]:
    if value is None or type_ == "object":
        return
    if items := _LIST.fullmatch(type_):
        yield from _list_errors(value, items[1], path)
    elif values := _MAP.fullmatch(type_):
        yield from _map_errors(value, values[1], path, is_quantity=is_quantity)
    elif type_ in _SCALARS:
        is_number = is_quantity and isinstance(value, int | float)
        is_right = isinstance(value, _SCALARS[type_]) and (type_ == "bool") == isinstance(value, bool)
        if not is_right and (not is_number or isinstance(value, bool)):
            yield f"{path}: {value!r} is not {_WORDS[type_]}"
    elif hasattr(models, type_):
        yield from _model_errors(value, type_, path)


def _list_errors(value: Any, type_: str, path: str) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield f"{path}: {value!r} is not a list"
        return
    for index, item in enumerate(value):
        yield from _errors(item, type_, f"{path}[{index}]")


def _map_errors(value: Any, type_: str, path: str, *, is_quantity: bool) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path}: {value!r} is not a mapping"
        return
    for name, item in value.items():
        yield from _errors(item, type_, f"{path}[{name}]", is_quantity=is_quantity)


def _model_errors(value: Any, type_: str, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path}: {value!r} is not a mapping"
        return
    attributes = _attributes(type_)
    for name, item in value.items():
        if name not in attributes:
            yield f"{path}.{name}: unknown field"
            continue
        attribute, field_type = attributes[name]
        yield from _errors(item, field_type, f"{path}.{name}", is_quantity=(type_, attribute) in _QUANTITIES)


@cache
def _attributes(type_: str) -> dict[str, tuple[str, str]]:
    """Name in the API → (attribute, type) of a model."""
    model = getattr(models, type_)
    return {model.attribute_map[name]: (name, field_type) for name, field_type in model.openapi_types.items()}
