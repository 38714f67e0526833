"""What a call of the gateway can raise: one tree, made from gRPC statuses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from multitask_api.errors import MultitaskError

M = TypeVar("M")

_DETAILS = "grpc-status-details-bin"
_TOO_LARGE = re.compile(r"(SERVER: )?(Received|Sent) message larger than max")


class GatewayError(MultitaskError):
    """A call failed. ``reason`` names the error for programs (ErrorInfo), ``status`` is gRPC's.

    ``retry_after_s``: after so many seconds the same call may succeed (RetryInfo); None where nobody says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: grpc.StatusCode,
        reason: str = "",
        facts: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.facts = dict(facts or {})
        self.violations = dict(violations or {})
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TaskNotFound(GatewayError):
    """No such task, or the pinned revision does not serve it. ``nearest`` holds names like the one asked for."""

    @property
    def nearest(self) -> tuple[str, ...]:
        """Names most like the one asked for."""
        return tuple(name for name in self.facts.get("nearest", "").split(",") if name)


class InvalidRequest(GatewayError):
    """The request does not fit the task; ``violations`` maps each place (``fields.text``) to what is wrong there."""


class Overloaded(GatewayError):
    """The server is at its limit; the same call may succeed in a moment."""


class DeadlineExceeded(GatewayError):
    """No answer within the time-out."""


class Unavailable(GatewayError):
    """Nobody there: the gateway cannot be reached, or it has no server for the task."""


_KINDS: Mapping[grpc.StatusCode, type[GatewayError]] = {
    grpc.StatusCode.NOT_FOUND: TaskNotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


def from_rpc(error: grpc.RpcError, address: str) -> GatewayError:
    """The error of this tree for gRPC's own."""
    status: grpc.StatusCode = error.code()
    said = _details(error)
    info, bad, retry = said.info, said.bad, said.retry
    kind = _KINDS.get(status, GatewayError)
    message = error.details() or status.name
    if info is None:  # not the gateway's words: gRPC's own, which never say which server
        message = f"{address}: {message}"
        if status is grpc.StatusCode.UNAVAILABLE:
            message += ". Check the address; `mtm serve DIR` starts a gateway"
        elif _is_too_large(error):
            kind, message = InvalidRequest, f"{message}. The request is too large; shorten its texts"
    return kind(
        message,
        status=status,
        reason=info.reason if info else "",
        facts=info.metadata if info else None,
        violations={violation.field: violation.description for violation in bad.field_violations} if bad else None,
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )


def _is_too_large(error: grpc.RpcError) -> bool:
    """Whether gRPC refused to carry the request. Its status RESOURCE_EXHAUSTED is that of an overload, too."""
    refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return refused and _TOO_LARGE.match(error.details() or "") is not None


@dataclass(frozen=True)
class _Details:
    """What the gateway says beside the status."""

    info: error_details_pb2.ErrorInfo | None = None
    bad: error_details_pb2.BadRequest | None = None
    retry: error_details_pb2.RetryInfo | None = None


def _details(error: grpc.RpcError) -> _Details:
    metadata: Iterable[tuple[str, bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for key, value in metadata:
        if key == _DETAILS:
            status = status_pb2.Status.FromString(value)
            kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
            return _Details(*(_unpack(status, kind()) for kind in kinds))
    return _Details()


def _unpack(status: status_pb2.Status, into: M) -> M | None:
    return into if any(detail.Unpack(into) for detail in status.details) else None
