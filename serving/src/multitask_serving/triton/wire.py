"""The wire format between a Triton client and our Python backend.

One Triton request is one task request::

    task      BYTES [1]   the task's name in the bundle
    fields    BYTES [1]   JSON object: field name → text
    options   BYTES [1]   optional, JSON object: `Options`

Its responses (one for a classification, one or more for a generation; Triton's final flag marks the last)::

    text           BYTES [1]    the label, or the text since the last response
    labels         BYTES [-1]   the task's labels in order; one empty string for a generation
    scores         FP32 [-1]    their normalised scores; one 0 for a generation
    finish_reason  BYTES [1]    empty until a generation ends: "eos", "stop" or "length"
    revision       BYTES [1]    the bundle's revision
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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

KEEPALIVE_MS: Final = 10_000
"""How often a connection with calls is asked whether it lives. Servers have to allow it: by default they do not."""

_ERROR_PREFIX = "mtm-error "
"""Triton passes on only an error's text, sometimes inside a text of its own; this prefix marks ours."""

INVALID_REQUEST: Final = "INVALID_REQUEST"
UNKNOWN_TASK: Final = "UNKNOWN_TASK"
MISSING_FIELD: Final = "MISSING_FIELD"
OVERLOADED: Final = "OVERLOADED"
CANCELLED: Final = "CANCELLED"
TIMEOUT: Final = "TIMEOUT"
INTERNAL: Final = "INTERNAL"
SHUTTING_DOWN: Final = "SHUTTING_DOWN"
"""The server ends; another one may answer."""


SamplingValue = float | int | tuple[str, ...]
"""The value of one sampling setting."""

_SAMPLING_TYPES: Final[Mapping[str, Any]] = {
    "temperature": int | float,
    "top_p": int | float,
    "seed": int,
    "max_new_tokens": int,
    "stop": list,
}
_TYPE_NAMES: Final[Mapping[Any, str]] = {int | float: "a number", int: "a whole number", list: "a list of texts"}


class MalformedRequest(UserError):
    """A Triton request does not follow the wire format."""


@dataclass(frozen=True, slots=True)
class WireError:
    """A request's error: a code of this module, a message for people, and the request field at fault, if any."""

    code: str
    message: str
    field: str = ""

    def encode(self) -> str:
        """The text of a Triton error response."""
        return _ERROR_PREFIX + json.dumps({"code": self.code, "message": self.message, "field": self.field})

    @classmethod
    def decode(cls, text: str) -> WireError | None:
        """The error in the text of a Triton error response, or None if the error is Triton's own."""
        _, prefix, payload = text.partition(_ERROR_PREFIX)
        if not prefix:
            return None
        try:
            content, _ = json.JSONDecoder().raw_decode(payload)
            return cls(str(content["code"]), str(content["message"]), str(content.get("field", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Options:
    """How to answer. ``stream``: send the text as it is generated. ``sampling``: only the settings that are set.

    The keys of ``sampling`` are those of the engine's `Sampling`: temperature, top_p, seed, max_new_tokens and stop.

    ``cancel`` is the id of another request, which is then stopped. This request, whatever its task, then gets the error
    CANCELLED. Ids are random, so the requests of other callers cannot be guessed.

    With ``status`` the text of the answer is a `ServerStatus`, whatever the task; it does not wait for the engine.
    """

    stream: bool = False
    sampling: Mapping[str, SamplingValue] = field(default_factory=dict)
    cancel: str = ""
    status: bool = False

    def encode(self) -> str:
        """The options as JSON."""
        content: dict[str, object] = {"stream": self.stream, "sampling": dict(self.sampling)}
        if self.cancel:
            content["cancel"] = self.cancel
        if self.status:
            content["status"] = True
        return json.dumps(content)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What a server says of itself: ``in_flight`` requests that have not ended, and what computes their answers.

    ``device`` is ``cpu`` or the name of the GPU. ``idle_s``: seconds since the engine last advanced an answer; None: it
    has not yet.
    """

    in_flight: int
    idle_s: float | None
    device: str

    def encode(self) -> str:
        """The status as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> ServerStatus:
        """The status in an answer. Raises ValueError if it is none."""
        content = json.loads(text)
        try:
            idle = content["idle_s"]
            return cls(int(content["in_flight"]), None if idle is None else float(idle), str(content["device"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{text!r} is no status") from error


@dataclass(frozen=True, slots=True)
class Inputs:
    """One task request, parsed from its tensors."""

    task: str
    fields: Mapping[str, str]
    options: Options


def parse_inputs(task: bytes, fields: bytes, options: bytes | None) -> Inputs:
    """Parse the values of a request's tensors. Raises `MalformedRequest`."""
    texts = _json_object(FIELDS, fields)
    for name, value in texts.items():
        if not isinstance(value, str):
            raise MalformedRequest(f"input 'fields': {name!r} is {type(value).__name__}. Send text")
    return Inputs(_utf8(TASK, task), texts, _parse_options(options))


def _parse_options(raw: bytes | None) -> Options:
    if not raw:
        return Options()
    content = _json_object(OPTIONS, raw)
    unknown = sorted(set(content) - {"stream", "sampling", "cancel", "status"})
    if unknown:
        raise MalformedRequest(f"input 'options': unknown key {unknown[0]!r}. Keys: stream, sampling, cancel, status")
    stream, sampling = content.get("stream", False), content.get("sampling", {})
    cancel, status = content.get("cancel", ""), content.get("status", False)
    if not isinstance(stream, bool) or not isinstance(sampling, dict) or not isinstance(cancel, str):
        raise MalformedRequest("input 'options': 'stream' must be a boolean, 'sampling' an object, 'cancel' a string")
    if not isinstance(status, bool):
        raise MalformedRequest("input 'options': 'status' must be a boolean")
    settings = {name: _parse_sampling_value(name, value) for name, value in sampling.items()}
    return Options(stream=stream, sampling=settings, cancel=cancel, status=status)


def _parse_sampling_value(name: str, value: Any) -> SamplingValue:
    kind = _SAMPLING_TYPES.get(name)
    if kind is None:
        raise MalformedRequest(f"sampling.{name} is not a setting. Settings: {', '.join(_SAMPLING_TYPES)}")
    if name == "stop":
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return tuple(value)
    elif isinstance(value, kind) and not isinstance(value, bool):
        return value  # type: ignore[no-any-return]
    raise MalformedRequest(f"sampling.{name} is {json.dumps(value)}. Send {_TYPE_NAMES[kind]}")


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
