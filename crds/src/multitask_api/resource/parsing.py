"""From YAML text to a checked resource, with every problem of the text at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from multitask_api.errors import InvalidFields, InvalidResource, Problem
from multitask_api.resource.model import MultiTaskModel
from multitask_api.resource.validation_messages import message_of
from multitask_api.resource.yaml_loader import load

Location = tuple[int | str, ...]
PydanticError = Mapping[str, Any]
"""One entry of ``ValidationError.errors()``."""


def parse(text: str) -> MultiTaskModel:
    """Parse and check a resource file's text.

    Raises InvalidResource with all problems; each names its path, as in ``spec.tasks[2].labels``.
    """
    return check(load(text))


def check(document: Mapping[str, Any]) -> MultiTaskModel:
    """Check a resource that is plain data already; raises as ``parse``.

    pydantic runs rules between fields only when each field is valid by itself, and rules between tasks only when each
    task is valid. To report the problems of all three levels at once, invalid fields are replaced by valid placeholders
    and the document is validated again.
    """
    misnamed = _misnamed_fields(document)
    problems = list(misnamed)
    groups: tuple[Problem, ...] = ()
    replaced: dict[Location, bool] = {}  # field → whether it keeps the user's own name and group
    candidate: dict[str, Any] | None = dict(document)
    for _ in ("fields", "rules of a task", "rules between tasks"):
        if candidate is None:
            break
        try:
            model = _validate(candidate)
        except ValidationError as error:
            errors = _root_errors(error)
        else:
            groups = model.spec.group_problems()
            if problems or groups:
                break
            return model
        placeholders = tuple(path_text(location) for location, own in replaced.items() if not own)
        new = [problem for item in errors for problem in _problems(item, MultiTaskModel)]
        problems += [problem for problem in new if not _at_or_below(problem.path, placeholders)]
        replaced |= {_field_of(item["loc"]): isinstance(_cause(item), InvalidFields) for item in errors}
        candidate = _with_placeholders(document, replaced)
    if problems:  # of a group with placeholders nothing can be said
        groups = _group_problems(document)
    problems += [Problem(f"spec.{each.path}", each.message) for each in groups]
    raise InvalidResource(_grouped(dict.fromkeys(problems)))


def _group_problems(document: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What does not fit the groups, as far as the fields are valid that they follow from."""
    spec = document.get("spec")
    tasks = spec.get("tasks") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(tasks, list) or not all(isinstance(t, Mapping) for t in tasks):
        return ()
    bare = [dict(_PLACEHOLDER_TASK) | {name: task[name] for name in _GROUPING & task.keys()} for task in tasks]
    kept = {name: spec[name] for name in ("tuning", "filtering", "stages") if name in spec}
    try:
        model = _validate({"metadata": {"name": "x"}, "spec": {"baseModel": {"uri": "x"}, "tasks": bare} | kept})
    except ValidationError:
        return ()
    return model.spec.group_problems()


def _grouped(problems: Iterable[Problem]) -> list[Problem]:
    """The problems of one task, or of one part of the spec, next to each other."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        match = re.match(r"spec\.tasks\[\d+\]|\w*(\.\w+)?", problem.path)
        groups.setdefault(match[0] if match else "", []).append(problem)
    return [problem for group in groups.values() for problem in group]


def _misnamed_fields(document: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Fields under the names that they have in Python. What else is wrong is found as if they were named well."""
    try:
        MultiTaskModel.from_document(document)
    except ValidationError as error:
        errors = [item for item in _root_errors(error) if item["type"] == "extra_forbidden"]
        return tuple(
            Problem(path_text(item["loc"]), unknown_field(item["loc"], MultiTaskModel))
            for item in errors
            if to_camel(str(item["loc"][-1])) in _fields_at(MultiTaskModel, item["loc"][:-1])
        )
    return ()


def _validate(document: Mapping[str, Any]) -> MultiTaskModel:
    """Strict, but for the names that `_misnamed_fields` has found."""
    return MultiTaskModel.from_document(document, by_name=True)


def _root_errors(error: ValidationError) -> list[PydanticError]:
    """The errors, without "too few items" of a list whose items were invalid one by one."""
    errors: list[PydanticError] = [
        item | {"loc": tuple(part for part in item["loc"] if not str(part).startswith("("))}  # tags are no fields
        for item in error.errors(include_url=False)
    ]
    locations = [item["loc"] for item in errors]

    def is_consequence(item: PydanticError) -> bool:
        own = item["loc"]
        return item["type"] == "too_short" and any(loc != own and loc[: len(own)] == own for loc in locations)

    return [item for item in errors if not is_consequence(item)]


def _cause(item: PydanticError) -> object:
    return item.get("ctx", {}).get("error")


def problems_of(error: ValidationError, record: type[BaseModel]) -> list[Problem]:
    """The problems of another file, which pydantic found while it validated a ``record``."""
    return [problem for item in _root_errors(error) for problem in _problems(item, record)]


def _problems(item: PydanticError, record: type[BaseModel]) -> list[Problem]:
    path = path_text(item["loc"])
    cause = _cause(item)
    if isinstance(cause, InvalidFields):
        return [Problem(_join(path, problem.path), problem.message) for problem in cause.problems]
    if item["type"] == "extra_forbidden":
        return [Problem(path, unknown_field(item["loc"], record))]
    return [Problem(path, message_of(item))]


_PLACEHOLDER_TASK: Mapping[str, Any] = {
    "name": "x",
    "type": "Generation",
    "prompt": "{x}",
    "data": {split: {"uri": "x.jsonl"} for split in ("train", "validation", "test")},
}


#: Fields of a task that say which group it is in.
_GROUPING = frozenset({"name", "type", "labels", "labelsFrom", "taxonomy", "group"})


def _field_of(location: Location) -> Location:
    """The field that is replaced as a whole: of a task, of the spec, or of the document."""
    if location[:2] == ("spec", "tasks"):
        return location[:4]
    return location[:2] if location[:1] == ("spec",) else location[:1]


def _with_placeholders(document: Mapping[str, Any], replaced: Collection[Location]) -> dict[str, Any] | None:
    """A copy in which each of ``replaced`` has its default or a valid placeholder; None if it has no list of tasks."""
    spec = document.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("tasks"), list) or ("spec", "tasks") in replaced:
        return None
    tasks = [_task_with_placeholders(task, index, replaced) for index, task in enumerate(spec["tasks"])]
    kept = {name: value for name, value in spec.items() if ("spec", name) not in replaced}
    outer = {name: value for name, value in document.items() if (name,) not in replaced}
    return {"metadata": {"name": "x"}} | outer | {"spec": {"baseModel": {"uri": "x"}} | kept | {"tasks": tasks}}


def _task_with_placeholders(task: Any, index: int, replaced: Collection[Location]) -> Any:
    own: Location = ("spec", "tasks", index)
    invalid = {location[3] for location in replaced if location[:3] == own and len(location) > 3}
    placeholder = dict(_PLACEHOLDER_TASK) | {"name": f"x-{index}"}
    if not isinstance(task, Mapping):
        return placeholder
    if not invalid and own not in replaced:
        return task
    kept = {name: value for name, value in task.items() if name not in invalid}
    if own in replaced or "type" in invalid:  # which other fields are valid depends on the type
        kept = {name: kept[name] for name in ("name", "group") if name in kept}
    if "promptFrom" in kept:
        placeholder.pop("prompt")
    if "type" not in kept:  # the placeholder generates: an answer that fits into every training.maxLength
        placeholder["generation"] = {"maxNewTokens": 1}
    return placeholder | kept


def _at_or_below(path: str, parents: Sequence[str]) -> bool:
    return any(path == parent or path.startswith((f"{parent}.", f"{parent}[")) for parent in parents)


def _join(parent: str, path: str) -> str:
    return f"{parent}.{path}" if parent and path else parent or path


def path_text(location: Sequence[int | str]) -> str:
    """``("spec", "tasks", 2, "labels")`` as ``spec.tasks[2].labels``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def unknown_field(location: Sequence[int | str], record: type[BaseModel]) -> str:
    """What to say of a field that ``record`` does not have: the one that was probably meant, else all known there."""
    known = _fields_at(record, location[:-1])
    name = str(location[-1])
    matches = [to_camel(name)] if to_camel(name) in known else difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {matches[0]}?" if matches else f"known fields: {', '.join(sorted(known))}"
    return f"unknown field; {hint}"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    current = model
    for part in location:
        if isinstance(part, int):
            continue
        for name, field in current.model_fields.items():
            if part in (name, field.alias):
                current = _model_in(field.annotation) or current
                break
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The record type inside ``X``, ``X | None``, ``tuple[X, ...]``; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        model = _model_in(argument)
        if model is not None:
            return model
    return None
