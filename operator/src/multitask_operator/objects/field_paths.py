"""The API server names a field of the Job that it rejects; here it gets the name that it has in the user's resource."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from multitask_api.types import JsonObject
from multitask_operator.objects.merge import KEYS
from multitask_operator.objects.pod_layers import Layer

#: A path in a pod template, also as Go's JSON decoder writes it: ``PodSpec.spec.template.spec.nodeSelector``.
_PATH = re.compile(r"(?:[A-Z]\w*\.)?\bspec\.template((?:\.\w+|\[[^\[\]]*\])+)")
_TOKEN = re.compile(r"\.(\w+)|\[([^\[\]]*)\]")
#: The server's words for one object, which the condition says itself, and for an error that it repeats for each field.
_PREAMBLE = re.compile(r'Job in version "v1" cannot be handled as a Job: (?:strict decoding error: |json: )?')
_UNKNOWN = re.compile(r'unknown field "([^"]+)"')

Token = str | int


def in_users_words(message: str, template: JsonObject, layers: Sequence[Layer]) -> str | None:
    """The server's ``message`` about a Job with this pod template, with the paths of fields that one of the ``layers``
    gives as they are written there; None if it names no such field."""
    found: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        path = _users_path(match[1], template, layers)
        found.extend([path] if path else [])
        return path or match[0]

    text = _PATH.sub(replaced, message)
    return _UNKNOWN.sub(r"\1: unknown field", _PREAMBLE.sub("", text)) if found else None


def _users_path(path: str, template: JsonObject, layers: Sequence[Layer]) -> str | None:
    tokens: list[Token] = [name or (int(index) if index.isdecimal() else index) for name, index in _TOKEN.findall(path)]
    if tokens[0] in ("labels", "annotations"):  # the server leaves out that they are metadata
        tokens.insert(0, "metadata")
    for layer in reversed(layers):  # a later layer overrides an earlier one
        located = _located(tokens, template, layer.given, "")
        if located is not None:
            return f"{layer.place}{located.removeprefix(layer.within)}"
    return None


def _located(tokens: Sequence[Token], merged: Any, given: Any, path: str) -> str | None:
    """The path of the field in ``given``, a part of a layer that became ``merged``; None if it is not there.

    ``path`` is that of ``given`` without positions, for the merge keys.
    """
    if not tokens:
        return ""
    token, rest = tokens[0], tokens[1:]
    if isinstance(given, Mapping):
        if token not in given:
            is_missing = bool(given) and given == merged and not rest  # what a container of the user's lacks
            return _step(token) if is_missing else None
        deeper = merged.get(token) if isinstance(merged, Mapping) else None
        below = _located(rest, deeper, given[token], f"{path}.{token}" if path else str(token))
        return None if below is None else f"{_step(token)}{below}"
    if not isinstance(given, list | tuple):
        return "".join(_step(each) for each in tokens)  # a value of another type than it should have
    if isinstance(token, int):
        positions = _positions(token, merged, given, path)
    else:  # Go's decoder leaves out the position
        positions, rest = list(range(len(given))), tokens
    for position in positions:
        item = merged[token] if isinstance(token, int) and isinstance(merged, list | tuple) else None
        below = _located(rest, item, given[position], path)
        if below is not None:
            return f"[{position}]{below}"
    return None


def _positions(index: int, merged: Any, given: Sequence[Any], path: str) -> list[int]:
    """Where the item at ``index`` of the merged list stands in the given one."""
    key = KEYS.get(path)
    if not isinstance(merged, list | tuple) or index >= len(merged):
        return []
    if key is None:
        return [index] if index < len(given) else []
    name = merged[index].get(key)
    return [position for position, item in enumerate(given) if isinstance(item, Mapping) and item.get(key) == name]


def _step(token: Token) -> str:
    return f"[{token}]" if isinstance(token, int) or not token.isidentifier() else f".{token}"
