"""What a call of the gateway can raise: one tree, made from gRPC statuses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from multitask_api.errors import MultitaskError

_DETAILS = "grpc-status-details-bin"
_TOO_LARGE = re.compile(r"(SERVER: )?(Received|Sent) message larger than max")


class GatewayError(MultitaskError):
    """A call failed. ``reason`` names the error for programs (ErrorInfo), ``status`` is gRPC's."""

    def __init__(
        self,
        message: str,
        *,
        status: grpc.StatusCode,
        reason: str = "",
        facts: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.facts = dict(facts or {})
        self.violations = dict(violations or {})
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
    info, bad = _details(error)
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
    )


def _is_too_large(error: grpc.RpcError) -> bool:
    """Whether gRPC refused to carry the request. Its status RESOURCE_EXHAUSTED is that of an overload, too."""
    refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return refused and _TOO_LARGE.match(error.details() or "") is not None


def _details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, error_details_pb2.BadRequest | None]:
    metadata: Iterable[tuple[str, bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for key, value in metadata:
        if key == _DETAILS:
            return _unpack(status_pb2.Status.FromString(value))
    return None, None


def _unpack(
    status: status_pb2.Status,
) -> tuple[error_details_pb2.ErrorInfo | None, error_details_pb2.BadRequest | None]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    has_info = any(detail.Unpack(info) for detail in status.details)
    has_bad = any(detail.Unpack(bad) for detail in status.details)
    return info if has_info else None, bad if has_bad else None
