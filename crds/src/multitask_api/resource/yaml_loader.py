"""YAML text to plain data. Also reports keys that occur twice, which YAML loaders accept silently."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from multitask_api.errors import InvalidResource, Problem


class _Loader(yaml.SafeLoader):
    """Safe YAML that reports duplicate keys and reads ``2e-4`` as a number, as Kubernetes does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    self.duplicates.append(
                        Problem("", f"line {line}: {key.value!r} is already on line {seen[key.value]}; remove one")
                    )
                seen.setdefault(key.value, line)
        return super().construct_mapping(node, deep)

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.duplicates: list[Problem] = []


# PyYAML reads YAML 1.1, where a number with an exponent needs a dot and a sign; YAML 1.2 and Kubernetes need neither.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def load(text: str, fields: str = "apiVersion, kind, metadata and spec") -> dict[str, Any]:
    """The one mapping in ``text``. Raises InvalidResource, naming lines; ``fields``: those that it is to have."""
    try:
        loader = _Loader(text)
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise InvalidResource([Problem("", _not_yaml(error))]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidResource([Problem("", f"not YAML: {' '.join(str(error).split())}")]) from error
    if loader.duplicates:
        raise InvalidResource(loader.duplicates)
    if not isinstance(document, dict):
        found = "it is empty; " if document is None else ""
        raise InvalidResource([Problem("", f"{found}expected one YAML mapping with {fields}")])
    try:
        return {str(key): _plain(value) for key, value in document.items()}
    except RecursionError as error:
        raise InvalidResource([Problem("", "an anchor contains itself; repeat the part instead")]) from error


def _plain(value: Any) -> Any:
    """The value in JSON types: whole floats become integers (2 ≡ 2.0), dates become text."""
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | set | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _not_yaml(error: yaml.MarkedYAMLError) -> str:
    if "expected a single document" in str(error):
        return "more than one YAML document; put each resource into its own file"
    mark = error.problem_mark or error.context_mark
    line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"not YAML: {line}{error.problem or error.context}; check indentation and quotes there"
