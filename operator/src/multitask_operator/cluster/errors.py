"""What can go wrong between the operator and the API server; whether to try again is in the type."""

from __future__ import annotations

import json
from typing import Any

from multitask_api.errors import MultitaskError, RetryableError, UserError


class ClusterError(MultitaskError):
    """The root."""


class ConnectionConfigError(ClusterError, UserError):
    """There is no usable address of, or no usable credentials for, an API server."""


class Unavailable(ClusterError, RetryableError):
    """The API server did not answer, was overloaded, or did not accept the credentials (which may be renewed)."""


class Conflict(ClusterError, RetryableError):
    """Somebody else wrote in between; what was decided rests on an old look."""


class AlreadyExists(Conflict):
    """An object of that name is there already."""


class NotFound(ClusterError):
    """There is no such object, or no such kind of object."""


class RequestRejected(ClusterError):
    """The API server does not take the request as it is: invalid, too large, over a quota, against a policy.

    ``code`` is the HTTP status, ``reason`` the server's word for it (``Invalid``), ``message`` its sentence.
    """

    def __init__(self, request: Request, code: int, reason: str, message: str) -> None:
        self.request, self.code, self.reason, self.message = request, code, reason, message
        super().__init__(f"{request}: {message}")


class Forbidden(RequestRejected):
    """As Refused, with status 403: a permission that is missing, a quota, an admission policy, or a namespace that is
    being deleted; ``message`` tells which."""


class Request:
    """What was asked, in the words in which a Role grants it: ``create jobs.batch "name" in namespace "n"``."""

    def __init__(self, verb: str, resource: str, namespace: str | None, name: str | None) -> None:
        self.verb, self.resource, self.namespace, self.name = verb, resource, namespace, name

    def __str__(self) -> str:
        named = f' "{self.name}"' if self.name else ""
        where = f' in namespace "{self.namespace}"' if self.namespace else ""
        return f"{self.verb} {self.resource}{named}{where}"


def error_for(request: Request, code: int, body: str | None) -> ClusterError:
    """The error for an answer with HTTP status ``code``; ``body`` is a ``Status`` object in JSON, or any text."""
    status = _status(body)
    reason = str(status.get("reason") or "")
    message = str(status.get("message") or (body or "").strip()[:300] or f"HTTP {code}")
    match code:
        case 409 if reason == "AlreadyExists":
            return AlreadyExists(f"{request}: {message}")
        case 409:
            return Conflict(f"{request}: {message}")
        case 404:
            return NotFound(f"{request}: {message}")
        case 401:
            return Unavailable(f"{request}: the API server does not accept the credentials: {message}")
        case 403:
            return Forbidden(request, code, reason or "Forbidden", message)
        case 408 | 410 | 429:
            return Unavailable(f"{request}: {message}")
        case _ if code >= 500:
            return Unavailable(f"{request}: {message}")
        case _:
            return RequestRejected(request, code, reason or "Refused", message)


def _status(body: str | None) -> dict[str, Any]:
    try:
        found = json.loads(body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}
