"""From YAML text to a checked resource, with every problem of the text at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from multitask_api.errors import InvalidResource, Problem
from multitask_api.resource.model import MultiTaskModel


def parse(text: str) -> MultiTaskModel:
    """Parse and check a resource file's text.

    Raises InvalidResource with all problems; each names its path, as in ``spec.tasks[2].labels``.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidResource([Problem("", f"not YAML: {' '.join(str(error).split())}")]) from error
    if not isinstance(document, Mapping):
        raise InvalidResource([Problem("", "expected one YAML mapping with apiVersion, kind, metadata and spec")])
    try:
        return MultiTaskModel.model_validate(document)
    except ValidationError as error:
        raise InvalidResource([_problem(document, item) for item in error.errors()]) from error


def _problem(document: Mapping[str, Any], item: Mapping[str, Any]) -> Problem:
    location: tuple[int | str, ...] = item["loc"]
    message = str(item["msg"]).removeprefix("Value error, ")
    kind = item["type"]
    where = path_text(document, location)
    if kind == "missing":
        message = "required, but missing"
    elif kind == "extra_forbidden":
        message = f"unknown field{_nearest(location)}"
    elif kind in ("string_type", "literal_error", "string_pattern_mismatch"):
        value = item.get("input")
        if isinstance(value, bool) or (isinstance(value, int | float) and kind == "string_type"):
            message = f"YAML reads this as {value!r}, not as text; quote it"
        elif kind == "literal_error":
            message = f"{value!r} is not one of {item['ctx']['expected']}"
        elif kind == "string_pattern_mismatch":
            message = f"{value!r} does not match {item['ctx']['pattern']}"
    if item["type"] == "value_error":
        head, _, rest = message.partition(": ")
        if rest and head.replace(".", "").isalpha() and " " not in head:
            return Problem(f"{where}.{head}" if where else head, rest)
    return Problem(where, message)


def path_text(document: object, location: Sequence[int | str]) -> str:
    """``("spec", "tasks", 2, "labels")`` as ``spec.tasks[2].labels``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _nearest(location: Sequence[int | str]) -> str:
    """A hint at the field that was probably meant."""
    known = _fields_at(MultiTaskModel, location[:-1])
    matches = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {matches[0]}?" if matches else f"; known fields: {', '.join(sorted(known))}"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    current = model
    for part in location:
        if isinstance(part, int):
            continue
        for name, field in current.model_fields.items():
            if part in (name, field.alias):
                found = _model_in(field.annotation)
                if found is not None:
                    current = found
                break
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The record type inside ``X``, ``X | None``, ``tuple[X, ...]``; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
