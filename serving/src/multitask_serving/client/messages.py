"""The clients' arguments and results, and their conversion to and from protobuf. Shared by both clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from multitask_serving.proto import gateway_pb2

REVISION_METADATA = "mtm-revision"
DEFAULT_TIMEOUT_S = 30.0

_TYPES = {
    gateway_pb2.TASK_TYPE_CLASSIFICATION: "Classification",
    gateway_pb2.TASK_TYPE_GENERATION: "Generation",
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a text is generated. None leaves a setting to the task; ``temperature`` 0 is greedy decoding.

    ``max_new_tokens`` and ``stop`` apply in addition to the task's own limits. The same ``seed`` gives the same text.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer: a ``label`` with the normalised ``scores`` of all labels, or a ``text``."""

    task: str
    label: str | None
    text: str | None
    scores: dict[str, float] = field(default_factory=dict)
    finish_reason: str = ""
    served_by: str = ""
    revision: str = ""

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
    """The request for a task. Raises TypeError for a field that is given twice or is not text."""
    merged = dict(fields or {})
    for name, value in more_fields.items():
        if name in merged:
            raise TypeError(f"field {name!r} is given twice")
        merged[name] = value
    for name, value in merged.items():
        if not isinstance(value, str):
            raise TypeError(f"field {name!r} is {type(value).__name__}, not text")
    request = gateway_pb2.PredictRequest(task=task, fields=merged)
    if sampling is not None:
        request.sampling.SetInParent()
        for name in ("max_new_tokens", "temperature", "top_p", "seed"):
            value = getattr(sampling, name)
            if value is not None:
                setattr(request.sampling, name, value)
        request.sampling.stop.extend(sampling.stop)
    return request


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


def channel_options(address: str) -> tuple[tuple[str, int], ...]:
    """Options for a channel: connections to this machine do not use the environment's proxy."""
    host = address.rpartition(":")[0]
    return (("grpc.enable_http_proxy", 0),) if host in {"127.0.0.1", "localhost", "[::1]"} else ()


def metadata(revision: str | None) -> tuple[tuple[str, str], ...]:
    """The request metadata that pins a revision."""
    return ((REVISION_METADATA, revision),) if revision else ()
