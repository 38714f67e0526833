"""For every bound in a CRD's schema: a value just outside it, and the API server's message about that value."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
ABSENT = object()
#: A value of another type than the one that is wanted.
_OTHER = {"string": 7, "integer": "7", "number": "7", "boolean": "true", "object": "text", "array": "text"}


@dataclass(frozen=True)
class InvalidValue:
    """One invalid value of an otherwise valid object, and the message about it."""

    path: str  # in the schema: spec.tasks[].name
    keyword: str
    field: str  # in the object: spec.tasks[0].name
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.keyword}"


def invalid_values(schema: Object, full: Object) -> Iterator[InvalidValue]:
    """One for every bound of ``schema``; ``full`` is a good object in which every field stands somewhere."""
    for path, node in nodes(schema):
        if path in ("", "apiVersion", "kind", "metadata"):
            continue
        places = list(values_at(full, path))
        assert places, f"{path} stands nowhere in the full object"
        field, value = places[0]
        for keyword, bad, words in _outside(node, field, value):
            if path == "metadata.name" and keyword == "type":  # refused before any schema is looked at
                continue
            yield InvalidValue(path, keyword, field, bad, words)
        for name in node.get("required", ()):
            yield InvalidValue(f"{path}.{name}", "required", f"{field}.{name}", ABSENT, "Required value")


def nodes(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every field of a schema with its path, as in ``spec.tasks[].labels[]``."""
    yield path, schema
    for name, item in schema.get("properties", {}).items():
        yield from nodes(item, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def values_at(document: Object, path: str) -> Iterator[tuple[str, Any]]:
    """Where a schema's path stands in an object, and what stands there."""
    items_at: list[tuple[str, Any]] = [("", document)]
    for part in path.replace("[]", ".[]").split("."):
        if part == "[]":
            items_at = [(f"{field}[{index}]", item) for field, items in items_at for index, item in enumerate(items)]
        else:
            items_at = [(f"{field}.{part}" if field else part, item[part]) for field, item in items_at if part in item]
    yield from items_at


def edit(document: Object, changes: Object) -> Object:
    """A copy with other values at these fields, ``spec.tasks[0].labels``; ABSENT takes one away."""
    changed = copy.deepcopy(document)
    for field, value in changes.items():
        *outer, last = (int(part) if part.isdigit() else part for part in re.findall(r"\w+", field))
        parent: Any = changed
        for part in outer:
            parent = parent.setdefault(part, {}) if isinstance(parent, dict) else parent[part]
        if value is ABSENT:
            del parent[last]
        else:
            parent[last] = value
    return changed


def _outside(node: Object, field: str, value: Any) -> Iterator[tuple[str, Any, str]]:
    """Keyword, a value outside its bound, and the server's words."""
    if "type" not in node:  # anything is good here
        return
    kind = node["type"]
    other = _OTHER[kind]
    given = {str: "string", int: "integer"}[type(other)]
    yield "type", other, f'Invalid value: "{given}": {field} in body must be of type {kind}: "{given}"'
    if "enum" in node:
        known = ", ".join(f'"{item}"' for item in node["enum"])
        yield "enum", "No-Such", f'Unsupported value: "No-Such": supported values: {known}'
    if "pattern" in node:
        message = f"{field} in body should match '{node['pattern']}'"
        yield "pattern", "9 No", f'Invalid value: "9 No": {message}'
    if "minLength" in node:
        least = node["minLength"]
        yield "minLength", "", f'Invalid value: "": {field} in body should be at least {least} chars long'
    if "maxLength" in node:
        most = node["maxLength"]
        yield "maxLength", "a" * (most + 1), f"Too long: may not be more than {most} bytes"
    if "minItems" in node:
        yield "minItems", [], f"Invalid value: 0: {field} in body should have at least {node['minItems']} items"
    if "maxItems" in node:
        most = node["maxItems"]
        many = _many(value, most + 1, node["items"].get("enum"))
        yield "maxItems", many, f"Too many: {most + 1}: must have at most {most} items"
    if "minimum" in node:
        yield from _beyond(node, field, "minimum", -1, "greater than")
    if "maximum" in node:
        yield from _beyond(node, field, "maximum", 1, "less than")


def _beyond(node: Object, field: str, keyword: str, step: int, words: str) -> Iterator[tuple[str, Any, str]]:
    exclusive = node.get(f"exclusive{keyword.title()}", False)
    bound = node[keyword]
    bad = bound if exclusive else bound + step
    rule = words if exclusive else f"{words} or equal to"
    yield keyword, bad, f"Invalid value: {json.dumps(bad)}: {field} in body should be {rule} {bound:.15g}"


def _many(items: list[Any], count: int, allowed: Sequence[str] | None) -> list[Any]:
    """Copies of the first item, told apart where lists are sets or maps; ``allowed``: the only values of items."""
    if allowed is not None:
        return [allowed[index % len(allowed)] for index in range(count)]
    first = items[0]
    if isinstance(first, dict) and "name" in first:
        return [first | {"name": f"a{index}"} for index in range(count)]
    if isinstance(first, dict) and "type" in first:
        return [first | {"type": f"A{index}"} for index in range(count)]
    return [f"a{index}" if isinstance(first, str) else first for index in range(count)]
