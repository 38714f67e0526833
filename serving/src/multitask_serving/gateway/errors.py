"""Every error that a caller can get, with its gRPC status, a reason for programs and a message for people::

    StatusError
    ├── TaskNotFound        NOT_FOUND
    ├── RevisionNotFound    NOT_FOUND
    ├── Unauthenticated     UNAUTHENTICATED
    ├── TaskNotAllowed      PERMISSION_DENIED
    ├── CallerUnknown       PERMISSION_DENIED
    ├── InvalidRequest      INVALID_ARGUMENT
    ├── LabelsOff           FAILED_PRECONDITION
    ├── Overloaded          RESOURCE_EXHAUSTED
    ├── DeadlineExceeded    DEADLINE_EXCEEDED
    ├── NoBackend           UNAVAILABLE
    └── InternalError       INTERNAL

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
_METADATA_VALUE_BYTES = 600
_VIOLATION_BYTES = 300
_VIOLATIONS_BYTES = 2000
"""A status is sent as trailing metadata, with the message twice: percent-encoded, and in the details in base64. If it
exceeds 8 KiB, gRPC may replace it by its own RESOURCE_EXHAUSTED, and the caller's mistake would look like overload."""


class StatusError(MultitaskError):
    """An error that ends a call: ``code`` is its gRPC status, ``reason`` its name for programs (ErrorInfo).

    ``retry_after_s``: after so many seconds the caller may try again (RetryInfo); None: no such advice.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retry_after_s: ClassVar[float | None] = None

    def metadata(self) -> Mapping[str, str]:
        """The metadata of ErrorInfo, for programs."""
        return {}

    def violations(self) -> Sequence[Problem]:
        """The field violations of BadRequest."""
        return ()


class TaskNotFound(StatusError):
    """No task of this name is routed; ``nearest`` are similar names."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "TASK_NOT_FOUND"

    def __init__(self, task: str, nearest: Sequence[str]) -> None:
        self.task, self.nearest = task, tuple(nearest)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "ListTasks lists all tasks"
        super().__init__(f"no task {task!r} is served here; {hint}")

    def metadata(self) -> Mapping[str, str]:
        """The requested name, and similar names joined by commas."""
        return {"task": self.task, "nearest": ",".join(self.nearest)}


class RevisionNotFound(StatusError):
    """The pinned revision does not serve this task."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "REVISION_NOT_FOUND"

    def __init__(self, task: str, revision: str, known: Sequence[str]) -> None:
        self._metadata = {"task": task, "revision": revision, "revisions": ",".join(known)}
        super().__init__(
            f"revision {revision!r} does not serve task {task!r}; revisions that do: {', '.join(known)}. "
            "Leave out the metadata 'mtm-revision' to use the revision that is rolled out"
        )

    def metadata(self) -> Mapping[str, str]:
        """The task, the requested revision, and the existing ones joined by commas."""
        return self._metadata


class Unauthenticated(StatusError):
    """The call has no credentials, or none that are valid."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class TaskNotAllowed(StatusError):
    """The caller may not call a task of this name, whether there is one or not; ``nearest`` are names that it may."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "TASK_NOT_ALLOWED"

    def __init__(self, task: str, caller: str, nearest: Sequence[str]) -> None:
        self._metadata = {"task": task, "caller": caller, "nearest": ",".join(nearest)}
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "ListTasks lists the tasks that it may call"
        super().__init__(f"caller {caller!r} may not call task {task!r}, or there is no such task; {hint}")

    def metadata(self) -> Mapping[str, str]:
        """The requested name, the caller's name, and similar names joined by commas."""
        return self._metadata


class CallerUnknown(StatusError):
    """The client's certificate is valid, but nobody who may call has it."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "CALLER_UNKNOWN"


class InvalidRequest(StatusError):
    """The request's fields or options do not fit the task; lists every problem."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in problems))

    def violations(self) -> Sequence[Problem]:
        """One violation for each problem."""
        return self._problems


class LabelsOff(StatusError):
    """The gateway takes no labels."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "LABELS_OFF"

    def __init__(self) -> None:
        super().__init__(
            "this gateway takes no labels. In a cluster, set gateway.labels.enabled of the chart to true; without the "
            "chart, MULTITASK_LABEL_KEY_FILE of every gateway"
        )


class Overloaded(StatusError):
    """The server's queue is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    retry_after_s = 1.0


class DeadlineExceeded(StatusError):
    """There was no answer within the deadline."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class NoBackend(StatusError):
    """No server could answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "NO_BACKEND"
    retry_after_s = 1.0


class InternalError(StatusError):
    """An error of the server, not of the request."""


def to_status(error: StatusError) -> grpc.Status:
    """The error as a gRPC status with google.rpc details (ErrorInfo, BadRequest, RetryInfo)."""
    number, _ = error.code.value
    message = _clip(str(error), _MESSAGE_BYTES)
    metadata = {name: _clip(value, _METADATA_VALUE_BYTES) for name, value in error.metadata().items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    details: list[Message] = [info]
    if violations := error.violations():
        details.append(_bad_request(violations))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
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
