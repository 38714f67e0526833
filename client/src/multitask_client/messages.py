"""The clients' arguments and results, and their conversion to and from protobuf. Shared by both clients."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import grpc

from multitask_client.errors import InvalidRequest
from multitask_client.proto import gateway_pb2

LONGEST_TIMEOUT_S = 1e8
"""About three years. gRPC takes a longer time-out for one that has passed."""

_METADATA = re.compile(r"[\x20-\x7e]+")
"""What the value of a header may be."""

ChannelOptions = tuple[tuple[str, str | int], ...]

REVISION_METADATA = "mtm-revision"
KEY_METADATA = "mtm-key"
DEFAULT_TIMEOUT_S = 30.0

_SETTINGS = {
    "max_new_tokens": "it must be a whole number from 0 to 4294967295",
    "temperature": "it must be a number",
    "top_p": "it must be a number",
    "seed": "it must be a whole number from 0 to 18446744073709551615",
    "stop": "it must be texts",
}
"""The settings of `Sampling`, and what the message can hold."""

_TYPES = {
    gateway_pb2.TASK_TYPE_CLASSIFICATION: "Classification",
    gateway_pb2.TASK_TYPE_GENERATION: "Generation",
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a text is generated. None leaves a setting to the task; ``temperature`` 0 is greedy decoding.

    ``max_new_tokens`` and ``stop`` apply in addition to the task's own limits; ``stop`` is one text or several. The
    same ``seed`` gives the same text.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer: a ``label`` with the normalised ``scores`` of all labels, or a ``text``.

    ``request_id`` is for `report_label`; empty for a text, and from a gateway that takes no labels. ``device`` computed
    it: ``cpu`` or the name of the GPU; empty unless the request named its revision.
    """

    task: str
    label: str | None
    text: str | None
    scores: dict[str, float] = field(default_factory=dict)
    finish_reason: str = ""
    served_by: str = ""
    revision: str = ""
    request_id: str = ""
    device: str = ""

    @property
    def answer(self) -> str:
        """The label or the text."""
        return (self.label if self.label is not None else self.text) or ""


@dataclass(frozen=True, slots=True)
class Task:
    """The gateway's description of a task. ``revisions`` maps each revision to its share of the requests in percent."""

    name: str
    full_name: str
    type: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    served_by: str
    revisions: dict[str, int]


def predict_request(
    task: str, fields: Mapping[str, str] | None, more_fields: Mapping[str, str], sampling: Sampling | None
) -> gateway_pb2.PredictRequest:
    """The request for a task. Raises `InvalidRequest` that names everything that cannot be sent."""
    _check_kinds(fields, sampling)
    problems = {"task": _text_problem(task)}
    merged = {**(fields or {}), **more_fields}
    for name, value in merged.items():
        twice = "is given twice" if name in (fields or {}) and name in more_fields else None
        problems[f"fields.{name}"] = twice or _text_problem(name) or _text_problem(value)
    check(problems)
    request = gateway_pb2.PredictRequest(task=task, fields=merged)
    if sampling is not None:
        request.sampling.SetInParent()
        check({f"sampling.{name}": _set(request.sampling, name, getattr(sampling, name)) for name in _SETTINGS})
    return request


def task_request(name: str) -> gateway_pb2.GetTaskRequest:
    """The request for a description. Raises `InvalidRequest`."""
    check({"task": _text_problem(name)})
    return gateway_pb2.GetTaskRequest(task=name)


def label_request(request_id: str, label: str) -> gateway_pb2.ReportLabelRequest:
    """The report of a label. Raises `InvalidRequest`."""
    check({"request_id": _text_problem(request_id), "label": _text_problem(label)})
    return gateway_pb2.ReportLabelRequest(request_id=request_id, label=label)


def check(problems: Mapping[str, str | None]) -> None:
    """Raise `InvalidRequest` for the parts of a request that have a problem."""
    violations = {name: problem for name, problem in problems.items() if problem is not None}
    if violations:
        raise InvalidRequest(
            "; ".join(f"{name}: {problem}" for name, problem in violations.items()),
            status=grpc.StatusCode.INVALID_ARGUMENT,
            reason="INVALID_REQUEST",
            violations=violations,
        )


def _check_kinds(fields: object, sampling: object) -> None:
    if fields is not None and not isinstance(fields, Mapping):
        problem = f"is {type(fields).__name__}, not a mapping of fields to texts; name the field, as in text=…"
        check({"fields": problem})
    if sampling is not None and not isinstance(sampling, Sampling):
        check({"sampling": f"is {type(sampling).__name__}, not Sampling; write Sampling(seed=1)"})


def _text_problem(value: object) -> str | None:
    """Why gRPC cannot send ``value`` as a text; None if it can."""
    if not isinstance(value, str):
        return f"is {type(value).__name__}, not text"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"has half a character (a surrogate) at position {error.start}; decode the text as UTF-16 or replace it"
    return None


def _set(sampling: gateway_pb2.SamplingOptions, name: str, value: object) -> str | None:
    """Set one setting; the problem, if the message cannot hold the value."""
    try:
        if name == "stop":
            sampling.stop.extend(_stop_texts(value))
        elif value is not None:
            setattr(sampling, name, value)
    except (AttributeError, TypeError, ValueError):  # protobuf names a wrong type in each of these ways
        return f"is {value!r}; {_SETTINGS[name]}"
    return None


def _stop_texts(value: object) -> list[str]:
    """Raises TypeError for what is no text and holds none. An iterator would be empty after the first call."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Collection) or isinstance(value, Mapping):
        raise TypeError("no texts")
    return list(value)


def prediction(response: gateway_pb2.PredictResponse) -> Prediction:
    """The answer in a response."""
    return Prediction(
        task=response.task,
        label=response.label if response.HasField("label") else None,
        text=response.text if response.HasField("text") else None,
        scores={score.label: score.score for score in response.scores},
        finish_reason=response.finish_reason,
        served_by=response.served_by,
        revision=response.revision,
        request_id=response.request_id,
        device=response.device,
    )


def task(message: gateway_pb2.Task) -> Task:
    """The description in a message."""
    return Task(
        name=message.name,
        full_name=message.full_name,
        type=_TYPES.get(message.type, ""),
        fields=tuple(message.fields),
        labels=tuple(message.labels),
        served_by=message.served_by,
        revisions={backend.revision: backend.weight for backend in message.backends},
    )


def channel_options(address: str) -> ChannelOptions:
    """Options for a channel: connections to this machine do not use the environment's proxy."""
    host = address.rpartition(":")[0]
    return (("grpc.enable_http_proxy", 0),) if host in {"127.0.0.1", "localhost", "[::1]"} else ()


def metadata(revision: str | None, routing_key: str | None = None) -> tuple[tuple[str, str], ...]:
    """The request metadata that pins a revision, or keeps one for all requests of a key. Raises `InvalidRequest`."""
    values = []
    for name, key, value in (("revision", REVISION_METADATA, revision), ("routing_key", KEY_METADATA, routing_key)):
        if not value:
            continue
        if not isinstance(value, str) or not _METADATA.fullmatch(value):
            check({name: f"is {value!r}; use printable ASCII characters"})
        values.append((key, value))
    return tuple(values)


def authorization(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """The request metadata that says who calls. Raises `InvalidRequest`, without the key in it."""
    if api_key is None:
        return ()
    if not isinstance(api_key, str) or not _METADATA.fullmatch(api_key):
        check({"api_key": "has characters that no header can have, such as a line break; strip it"})
    return (("authorization", f"Bearer {api_key}"),)


def timeout(timeout_s: float) -> float | None:
    """The time-out of a call in gRPC's terms, where None is no limit. Raises `InvalidRequest`."""
    if not isinstance(timeout_s, int | float) or (isinstance(timeout_s, float) and math.isnan(timeout_s)):
        check({"timeout_s": f"is {timeout_s!r}; it must be a number of seconds, or math.inf for no limit"})
    return None if timeout_s > LONGEST_TIMEOUT_S else max(timeout_s, -1.0)  # passed is passed
