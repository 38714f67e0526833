"""What goes over the wire between a Triton client and our Python backend, beside the tensors themselves.

One Triton request is one task request::

    task      BYTES [1]   the task's name in the bundle
    fields    BYTES [1]   JSON object: field name → text
    options   BYTES [1]   optional, JSON object: `Options`

Its responses (one for a classification, one or more for a generation; the last has Triton's final flag)::

    text           BYTES [1]    the label, or the text since the last response
    labels         BYTES [-1]   the task's labels in order; one empty string for a generation
    scores         FP32 [-1]    their normalised scores; one 0 for a generation
    finish_reason  BYTES [1]    empty until a generation ends: "eos", "stop" or "length"
    revision       BYTES [1]    the bundle's revision
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from multitask_api.errors import UserError

MODEL: Final = "multitask"
TASK: Final = "task"
FIELDS: Final = "fields"
OPTIONS: Final = "options"
TEXT: Final = "text"
LABELS: Final = "labels"
SCORES: Final = "scores"
FINISH_REASON: Final = "finish_reason"
REVISION: Final = "revision"

_MARK = "mtm-error "
"""Triton passes an error's text only, sometimes with its own words before it: ours is found by this mark."""

INVALID_REQUEST: Final = "INVALID_REQUEST"
UNKNOWN_TASK: Final = "UNKNOWN_TASK"
MISSING_FIELD: Final = "MISSING_FIELD"
OVERLOADED: Final = "OVERLOADED"
CANCELLED: Final = "CANCELLED"
INTERNAL: Final = "INTERNAL"


Setting = float | int | tuple[str, ...]
"""The value of one sampling setting."""

_SAMPLING: Final[Mapping[str, Any]] = {
    "temperature": int | float,
    "top_p": int | float,
    "seed": int,
    "max_new_tokens": int,
    "stop": list,
}
_KINDS: Final[Mapping[Any, str]] = {int | float: "a number", int: "a whole number", list: "a list of texts"}


class MalformedRequest(UserError):
    """A Triton request whose JSON is not what `wire` says."""


@dataclass(frozen=True, slots=True)
class WireError:
    """A request's error: a code of this module, a message for people, and the field it is about, if any."""

    code: str
    message: str
    field: str = ""

    def encode(self) -> str:
        """The text of a Triton error response."""
        return _MARK + json.dumps({"code": self.code, "message": self.message, "field": self.field})

    @classmethod
    def decode(cls, text: str) -> WireError | None:
        """The error in a Triton error response's text, or None if the text is Triton's own."""
        _, mark, payload = text.partition(_MARK)
        if not mark:
            return None
        try:
            content, _ = json.JSONDecoder().raw_decode(payload)
            return cls(str(content["code"]), str(content["message"]), str(content.get("field", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Options:
    """How to answer: ``stream`` sends a generation's text as it is made; ``sampling`` holds only what was set.

    The keys of ``sampling`` are the engine's: temperature, top_p, seed, max_new_tokens (numbers), stop (texts).

    ``cancel`` is another request's id: that one is stopped, and this one, whatever its task, is answered with the
    error CANCELLED. Requests of other callers cannot be guessed: ids are random.
    """

    stream: bool = False
    sampling: Mapping[str, Setting] = field(default_factory=dict)
    cancel: str = ""

    def encode(self) -> str:
        """As JSON."""
        content: dict[str, object] = {"stream": self.stream, "sampling": dict(self.sampling)}
        return json.dumps({**content, "cancel": self.cancel} if self.cancel else content)


@dataclass(frozen=True, slots=True)
class Inputs:
    """One task request as it came out of its tensors."""

    task: str
    fields: Mapping[str, str]
    options: Options


def parse_inputs(task: bytes, fields: bytes, options: bytes | None) -> Inputs:
    """Read one request. Raises `MalformedRequest`."""
    texts = _json_object(FIELDS, fields)
    for name, value in texts.items():
        if not isinstance(value, str):
            raise MalformedRequest(f"input 'fields': {name!r} is {type(value).__name__}. Send text")
    return Inputs(_utf8(TASK, task), texts, _parse_options(options))


def _parse_options(raw: bytes | None) -> Options:
    if not raw:
        return Options()
    content = _json_object(OPTIONS, raw)
    unknown = sorted(set(content) - {"stream", "sampling", "cancel"})
    if unknown:
        raise MalformedRequest(f"input 'options': unknown key {unknown[0]!r}. It takes 'stream' and 'sampling'")
    stream, sampling = content.get("stream", False), content.get("sampling", {})
    cancel = content.get("cancel", "")
    if not isinstance(stream, bool) or not isinstance(sampling, dict) or not isinstance(cancel, str):
        raise MalformedRequest("input 'options': 'stream' is a boolean, 'sampling' an object and 'cancel' an id")
    settings = {name: _setting(name, value) for name, value in sampling.items()}
    return Options(stream=stream, sampling=settings, cancel=cancel)


def _setting(name: str, value: Any) -> Setting:
    kind = _SAMPLING.get(name)
    if kind is None:
        raise MalformedRequest(f"sampling.{name} is not a setting. Settings: {', '.join(_SAMPLING)}")
    if name == "stop":
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return tuple(value)
    elif isinstance(value, kind) and not isinstance(value, bool):
        return value  # type: ignore[no-any-return]
    raise MalformedRequest(f"sampling.{name} is {json.dumps(value)}. Send {_KINDS[kind]}")


def _json_object(name: str, raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(_utf8(name, raw))
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"input {name!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise MalformedRequest(f"input {name!r} is {type(content).__name__}. Send a JSON object")
    return content


def _utf8(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"input {name!r} is not UTF-8: {error}") from error
