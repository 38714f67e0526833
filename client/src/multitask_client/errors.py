"""The errors that a call of the gateway raises, made from gRPC statuses::

GatewayError
├── TaskNotFound        NOT_FOUND
├── Unauthenticated     UNAUTHENTICATED
├── PermissionDenied    PERMISSION_DENIED
├── InvalidRequest      INVALID_ARGUMENT
├── FailedPrecondition  FAILED_PRECONDITION
├── Overloaded          RESOURCE_EXHAUSTED
├── DeadlineExceeded    DEADLINE_EXCEEDED
└── Unavailable         UNAVAILABLE
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

M = TypeVar("M")

_DETAILS = "grpc-status-details-bin"
_TOO_LARGE = re.compile(r"(SERVER: )?(Received|Sent) message larger than max")


_NOTES = "`helm get notes RELEASE` shows how to read the chart's"
_CA_HINT = f"give its authority with --ca FILE of `mtm predict`, tls=Tls(ca=FILE) of a client ({_NOTES})"
_KEY_HINT = f"Give a key with --api-key-file FILE of `mtm predict`, api_key=KEY of a client ({_NOTES})"


class GatewayError(Exception):
    """A call failed. ``status`` is the gRPC status, ``reason`` the error's name for programs (ErrorInfo).

    ``metadata`` is that of ErrorInfo; ``violations`` maps request fields to their problems (BadRequest).
    ``retry_after_s``: after so many seconds the same call may succeed (RetryInfo); None: no such advice.
    """

    def __init__(
        self,
        message: str,
        *,
        status: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = dict(violations or {})
        self.retry_after_s = retry_after_s
        super().__init__(message)

    @property
    def answered(self) -> bool:
        """Whether the gateway answered, with this error: then it has not done what it was asked.

        Else nobody answered in time, or the connection was lost: what was sent may have arrived.
        """
        return bool(self.reason)


class TaskNotFound(GatewayError):
    """There is no such task, or the pinned revision does not serve it."""

    @property
    def nearest(self) -> tuple[str, ...]:
        """Existing names that are similar to the requested one."""
        return tuple(name for name in self.metadata.get("nearest", "").split(",") if name)


class Unauthenticated(GatewayError):
    """The gateway asks who calls, and the client has no API key or certificate that it knows."""


class PermissionDenied(GatewayError):
    """The caller may not call a task of this name, whether there is one or not."""

    @property
    def nearest(self) -> tuple[str, ...]:
        """Similar names that the caller may call."""
        return tuple(name for name in self.metadata.get("nearest", "").split(",") if name)


class InvalidRequest(GatewayError):
    """The request does not fit the task; ``violations`` maps each field (``fields.text``) to its problem."""


class FailedPrecondition(GatewayError):
    """The gateway is not set up for this call; the message says what to switch on."""


class Overloaded(GatewayError):
    """The server is overloaded; the same call may succeed in a moment."""


class DeadlineExceeded(GatewayError):
    """There was no answer within the timeout."""


class Unavailable(GatewayError):
    """The gateway cannot be reached, or it has no server for the task."""


_ERROR_TYPES: Mapping[grpc.StatusCode, type[GatewayError]] = {
    grpc.StatusCode.NOT_FOUND: TaskNotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


def from_rpc_error(
    error: grpc.RpcError, address: str, *, is_encrypted: bool = False, has_credentials: bool = True
) -> GatewayError:
    """The `GatewayError` for an error of gRPC; ``address`` is the gateway's.

    ``is_encrypted``: whether the client uses TLS; ``has_credentials``: whether it says who calls.
    """
    status: grpc.StatusCode = error.code()
    details = _details(error)
    info, bad_request, retry = details.info, details.bad_request, details.retry
    error_type = _ERROR_TYPES.get(status, GatewayError)
    message = error.details() or status.name
    if info is None:  # the message is gRPC's, not the gateway's, and does not name the server
        message = f"{address}: {message}"
        if status is grpc.StatusCode.UNAVAILABLE:
            message += f". {_unavailable_hint(message, is_encrypted=is_encrypted)}"
        elif _is_too_large(error):
            error_type, message = InvalidRequest, f"{message}. The request is too large; shorten its texts"
    elif status is grpc.StatusCode.UNAUTHENTICATED and not has_credentials:
        message += f". {_KEY_HINT}"
    violations = bad_request.field_violations if bad_request else ()
    return error_type(
        message,
        status=status,
        reason=info.reason if info else "",
        metadata=info.metadata if info else None,
        violations={violation.field: violation.description for violation in violations},
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )


def _unavailable_hint(message: str, *, is_encrypted: bool) -> str:
    """What to try; gRPC tells a gateway with TLS, or without, by the error of the connection alone."""
    if "CERTIFICATE_VERIFY_FAILED" in message or "Hostname Verification Check failed" in message:
        return f"The gateway's certificate cannot be checked: {_CA_HINT}; --server-name NAME if it is for another name"
    if "WRONG_VERSION_NUMBER" in message:
        return "The gateway answers without TLS: leave out --ca, --cert and --tls of `mtm predict`, tls= of a client"
    advice = "Check the address; `mtm serve DIR` starts a gateway"
    if is_encrypted or "Connection refused" in message or "DNS" in message:
        return advice
    return f"If the gateway has TLS, {_CA_HINT}. Else check the address; `mtm serve DIR` starts a gateway"


def _is_too_large(error: grpc.RpcError) -> bool:
    """Whether gRPC rejected the request for its size. gRPC's status for that is also the one for overload."""
    exhausted = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return exhausted and _TOO_LARGE.match(error.details() or "") is not None


@dataclass(frozen=True)
class _Details:
    """The google.rpc details of a status."""

    info: error_details_pb2.ErrorInfo | None = None
    bad_request: error_details_pb2.BadRequest | None = None
    retry: error_details_pb2.RetryInfo | None = None


def _details(error: grpc.RpcError) -> _Details:
    metadata: Iterable[tuple[str, bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    messages = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    for key, value in metadata:
        if key == _DETAILS:
            try:
                status = status_pb2.Status.FromString(value)
                return _Details(*(_unpack(status, message()) for message in messages))
            except (DecodeError, TypeError):  # of a proxy, perhaps: the status itself says enough
                return _Details()
    return _Details()


def _unpack(status: status_pb2.Status, into: M) -> M | None:
    return into if any(detail.Unpack(into) for detail in status.details) else None
