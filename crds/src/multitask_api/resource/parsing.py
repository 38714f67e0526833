"""From YAML text to a checked resource, with every problem of the text at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from multitask_api.errors import InvalidResource, Problem
from multitask_api.resource.model import MultiTaskModel
from multitask_api.resource.problems import Problems
from multitask_api.resource.validation_messages import message_of
from multitask_api.resource.yaml_loader import load

Location = tuple[int | str, ...]


def parse(text: str) -> MultiTaskModel:
    """Parse and check a resource file's text.

    Raises InvalidResource with all problems; each names its path, as in ``spec.tasks[2].labels``.
    """
    return check(load(text))


def check(document: Mapping[str, Any]) -> MultiTaskModel:
    """Check a resource that is plain data already; raises as ``parse``.

    Rules between fields run only where every field is good by itself, and rules between tasks only where every task is.
    So what was refused is replaced by something harmless, and the rest is looked at again.
    """
    problems: list[Problem] = []
    replaced: dict[Location, bool] = {}  # place → is what stands there now still the user's own name and group?
    looked_at: dict[str, Any] | None = dict(document)
    for _ in ("fields", "rules of a task", "rules between tasks"):
        if looked_at is None:
            break
        try:
            model = _validate(looked_at)
        except ValidationError as error:
            refused = _real(error)
        else:
            if not problems:
                return model
            break
        foreign = tuple(path_text(place) for place, own in replaced.items() if not own)
        found = [problem for item in refused for problem in _problems(item)]
        problems += [problem for problem in found if not _at_or_below(problem.path, foreign)]
        replaced |= {_field_of(item["loc"]): isinstance(_cause(item), Problems) for item in refused}
        looked_at = _mended(document, replaced)
    raise InvalidResource(_by_place(dict.fromkeys(problems)))


def _by_place(problems: Iterable[Problem]) -> list[Problem]:
    """The problems of one task, or of one part of the spec, stand together."""
    places: dict[str, list[Problem]] = {}
    for problem in problems:
        match = re.match(r"spec\.tasks\[\d+\]|\w*(\.\w+)?", problem.path)
        places.setdefault(match[0] if match else "", []).append(problem)
    return [problem for group in places.values() for problem in group]


def _validate(document: Mapping[str, Any]) -> MultiTaskModel:
    """Strict, as Kubernetes is: text is no number, and a number is no text. JSON, because there a list is a tuple."""
    return MultiTaskModel.model_validate_json(json.dumps(document), strict=True)


def _real(error: ValidationError) -> list[Mapping[str, Any]]:
    """The errors, without "too few items" of a list whose items were refused one by one."""
    errors: list[Mapping[str, Any]] = list(error.errors(include_url=False))
    locations = [item["loc"] for item in errors]

    def follows(item: Mapping[str, Any]) -> bool:
        own = item["loc"]
        return item["type"] == "too_short" and any(loc != own and loc[: len(own)] == own for loc in locations)

    return [item for item in errors if not follows(item)]


def _cause(item: Mapping[str, Any]) -> object:
    return item.get("ctx", {}).get("error")


def _problems(item: Mapping[str, Any]) -> list[Problem]:
    where = path_text(item["loc"])
    cause = _cause(item)
    if isinstance(cause, Problems):
        return [Problem(_join(where, problem.path), problem.message) for problem in cause.problems]
    if item["type"] == "extra_forbidden":
        return [Problem(where, f"unknown field{_nearest(item['loc'])}")]
    return [Problem(where, message_of(item))]


_STAND_IN: Mapping[str, Any] = {
    "name": "x",
    "type": "Generation",
    "prompt": "{x}",
    "data": {split: {"uri": "x.jsonl"} for split in ("train", "validation", "test")},
}


def _field_of(location: Location) -> Location:
    """The field that is replaced as a whole: of a task, of the spec, or of the document."""
    if location[:2] == ("spec", "tasks"):
        return location[:4]
    return location[:2] if location[:1] == ("spec",) else location[:1]


def _mended(document: Mapping[str, Any], replaced: Collection[Location]) -> dict[str, Any] | None:
    """A copy in which each of ``replaced`` has its default or a harmless value; None when there are no tasks to see."""
    spec = document.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("tasks"), list) or ("spec", "tasks") in replaced:
        return None
    tasks = [_mended_task(task, index, replaced) for index, task in enumerate(spec["tasks"])]
    kept = {name: value for name, value in spec.items() if ("spec", name) not in replaced}
    outer = {name: value for name, value in document.items() if (name,) not in replaced}
    return {"metadata": {"name": "x"}} | outer | {"spec": {"baseModel": {"uri": "x"}} | kept | {"tasks": tasks}}


def _mended_task(task: Any, index: int, replaced: Collection[Location]) -> Any:
    place: Location = ("spec", "tasks", index)
    refused = {location[3] for location in replaced if location[:3] == place and len(location) > 3}
    if not isinstance(task, Mapping) or not (refused or place in replaced):
        return task if isinstance(task, Mapping) else dict(_STAND_IN) | {"name": f"x-{index}"}
    kept = {name: value for name, value in task.items() if name not in refused}
    if place in replaced or "type" in refused:  # without its type, no rule says what the other fields should be
        kept = {name: kept[name] for name in ("name", "group") if name in kept}
    stand_in = dict(_STAND_IN) | {"name": f"x-{index}"}
    if "promptFrom" in kept:
        stand_in.pop("prompt")
    return stand_in | kept


def _at_or_below(path: str, known: Sequence[str]) -> bool:
    return any(path == place or path.startswith((f"{place}.", f"{place}[")) for place in known)


def _join(where: str, path: str) -> str:
    return f"{where}.{path}" if where and path else where or path


def path_text(location: Sequence[int | str]) -> str:
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
