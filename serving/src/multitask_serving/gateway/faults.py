"""Every error a caller can get, each with its gRPC status, a reason for programs and a message for people.

The reasons are part of the interface (google.rpc.ErrorInfo, domain ``multitask.dev``): add to them, do not rename.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from multitask_api.errors import MultitaskError, Problem

DOMAIN = "multitask.dev"

_MESSAGE_BYTES = 800
_FACT_BYTES = 600
_VIOLATION_BYTES = 300
_VIOLATIONS_BYTES = 2000
"""Statuses travel in trailing metadata, the message twice: percent-encoded, and inside the details in base64. Above
8 KiB in all gRPC may put a RESOURCE_EXHAUSTED of its own in their place: a caller's mistake would look like load."""


class Fault(MultitaskError):
    """An error for the caller: ``code`` is its gRPC status, ``reason`` its name for programs."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retry_after_s: ClassVar[float | None] = None

    def metadata(self) -> Mapping[str, str]:
        """Facts for programs, in ErrorInfo."""
        return {}

    def violations(self) -> Sequence[Problem]:
        """What is wrong with which field of the request, in BadRequest."""
        return ()


class TaskNotFound(Fault):
    """No task of this name is routed; ``nearest`` are the names most like it."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "TASK_NOT_FOUND"

    def __init__(self, task: str, nearest: Sequence[str]) -> None:
        self.task, self.nearest = task, tuple(nearest)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "ListTasks names them all"
        super().__init__(f"no task {task!r} is served here; {hint}")

    def metadata(self) -> Mapping[str, str]:
        """The name asked for, and the nearest ones, joined by commas."""
        return {"task": self.task, "nearest": ",".join(self.nearest)}


class RevisionNotFound(Fault):
    """The pinned revision does not serve this task."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "REVISION_NOT_FOUND"

    def __init__(self, task: str, revision: str, known: Sequence[str]) -> None:
        self._facts = {"task": task, "revision": revision, "revisions": ",".join(known)}
        super().__init__(
            f"revision {revision!r} does not serve task {task!r}; {', '.join(known)} does. "
            "Leave metadata 'mtm-revision' out to get the one that is rolled out"
        )

    def metadata(self) -> Mapping[str, str]:
        """The task, the revision asked for, and those there are."""
        return self._facts


class InvalidRequest(Fault):
    """The request's fields or options do not fit the task; every problem at once."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in problems))

    def violations(self) -> Sequence[Problem]:
        """One for each problem."""
        return self._problems


class Overloaded(Fault):
    """The server's queue is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    retry_after_s = 1.0


class DeadlineExceeded(Fault):
    """The answer was not there in time."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class NoBackend(Fault):
    """No server could answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "NO_BACKEND"
    retry_after_s = 1.0


class InternalFault(Fault):
    """A fault of the server, not of the request."""


def to_status(fault: Fault) -> grpc.Status:
    """The fault as gRPC's rich error."""
    number, _ = fault.code.value
    message = _clip(str(fault), _MESSAGE_BYTES)
    facts = {name: _clip(fact, _FACT_BYTES) for name, fact in fault.metadata().items()}
    info = error_details_pb2.ErrorInfo(reason=fault.reason, domain=DOMAIN, metadata=facts)
    details: list[Message] = [info]
    if violations := fault.violations():
        details.append(_bad_request(violations))
    if fault.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(fault.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=number, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


def _bad_request(violations: Sequence[Problem]) -> Message:
    bad, left = error_details_pb2.BadRequest(), _VIOLATIONS_BYTES
    for problem in violations:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_clip(problem.path, _VIOLATION_BYTES), description=_clip(problem.message, _VIOLATION_BYTES)
        )
        left -= violation.ByteSize()
        if left < 0:
            break
        bad.field_violations.append(violation)
    return bad  # type: ignore[no-any-return]  # the module has no types


def _clip(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` bytes of UTF-8."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "…"
