"""Which fields of a model the arms of a study may differ in, and what is said of other names. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from multitask_api.errors import Problem
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.parsing import unknown_field

VARIED = (
    "filtering",
    "pretraining",
    "stages.highResource.enabled",
    "stages.highResource.maxSteps",
    "stages.highResource.minSaturationSteps",
    "stages.mixture.sizeLimit",
    "stages.mixture.temperature",
    "training.learningRate",
    "training.warmupSteps",
    "tuning",
)
"""The fields that arms may differ in: all others have to be equal, or the arms would not be comparable."""


def field_problems(named: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """What is wrong with fields that a study names, as (place in its file, path below the model's spec)."""
    for place, path in named:
        parts = path.split(".")
        unknown = _first_unknown(parts)
        if parts[0] == "spec":
            yield Problem(place, f"fields stand here as they do below spec; write {'.'.join(parts[1:]) or VARIED[0]}")
        elif unknown is not None:
            meant = _meant(path)
            hint = f"unknown field; did you mean {meant}?" if meant else unknown_field(unknown, MultiTaskModelSpec)
            yield Problem(place, hint)
        elif not _is_varied(path):
            yield Problem(place, f"arms cannot be compared that differ in it; vary one of {', '.join(VARIED)}")


def _is_varied(path: str) -> bool:
    return any(path == allowed or path.startswith(f"{allowed}.") for allowed in VARIED)


def _first_unknown(parts: list[str]) -> list[str] | None:
    """The shortest part of a path that no field has; None if all are known, or lie in a field without fields."""
    known = _paths()
    for end in range(1, len(parts) + 1):
        path, parent = ".".join(parts[:end]), ".".join(parts[: end - 1])
        if path not in known:
            has_fields = not parent or any(other.startswith(f"{parent}.") for other in known)
            return parts[:end] if has_fields else None
    return None


def _meant(path: str) -> str | None:
    """The field that arms may differ in whose last name is written most alike; of several the whole path decides."""
    by_name: dict[str, list[str]] = {}
    for known in filter(_is_varied, _paths()):
        by_name.setdefault(known.rpartition(".")[2], []).append(known)
    names = difflib.get_close_matches(to_camel(path.rpartition(".")[2]), by_name, n=1)
    return difflib.get_close_matches(path, by_name[names[0]], n=1, cutoff=0.0)[0] if names else None


@cache
def _paths() -> tuple[str, ...]:
    """The fields of a model's spec, and those in them; without those of lists."""
    return tuple(_paths_in(MultiTaskModelSpec, ""))


def _paths_in(record: type[BaseModel], parent: str) -> Iterator[str]:
    for name, field in record.model_fields.items():
        path = f"{parent}{field.alias or name}"
        yield path
        inner = _record_in(field.annotation)
        if inner is not None:
            yield from _paths_in(inner, f"{path}.")


def _record_in(annotation: Any) -> type[BaseModel] | None:
    """The record in ``X`` and ``X | None``."""
    if get_origin(annotation) is tuple:
        return None
    options = (annotation, *get_args(annotation))
    return next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)
