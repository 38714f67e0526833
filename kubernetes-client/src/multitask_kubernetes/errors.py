"""Errors between our programs and the API server; whether to try again is in the type.

ClusterError
├── ConnectionConfigError (UserError)
├── Unavailable (RetryableError)
│   └── Expired
├── Conflict (RetryableError)
│   └── AlreadyExists
├── NotFound
└── RequestRejected
    └── Forbidden
"""

from __future__ import annotations

import json
from typing import Any

from multitask_api.errors import MultitaskError, RetryableError, UserError


class ClusterError(MultitaskError):
    """The root of this tree."""


class ConnectionConfigError(ClusterError, UserError):
    """No usable address of an API server, or no usable credentials for it."""


class Unavailable(ClusterError, RetryableError):
    """The API server did not answer, was overloaded, or did not accept the credentials (which may be renewed)."""


class Expired(Unavailable):
    """The server does not know the resource version any more from which to go on: everything has to be listed again."""


class Conflict(ClusterError, RetryableError):
    """Somebody else wrote in between: the decision is out of date."""


class AlreadyExists(Conflict):
    """An object of that name exists already."""


class NotFound(ClusterError):
    """There is no such object, or no such kind of object."""


class RequestRejected(ClusterError):
    """The API server rejects the request as it is: invalid, too large, over a quota, against a policy.

    ``code`` is the HTTP status, ``reason`` the server's word for it (``Invalid``), ``message`` its sentence.
    """

    def __init__(self, request: Request, code: int, reason: str, message: str) -> None:
        self.request, self.code, self.reason, self.message = request, code, reason, message
        super().__init__(f"{request}: {message}")


class Forbidden(RequestRejected):
    """As RequestRejected, with status 403: a missing permission, a quota, an admission policy, or a namespace that is
    being deleted; the message says which."""


class Request:
    """A request, in the words of the Role that would grant it: ``create jobs.batch "name" in namespace "n"``."""

    def __init__(self, verb: str, resource: str, namespace: str | None, name: str | None) -> None:
        self.verb, self.resource, self.namespace, self.name = verb, resource, namespace, name

    def __str__(self) -> str:
        named = f' "{self.name}"' if self.name else ""
        where = f' in namespace "{self.namespace}"' if self.namespace else ""
        return f"{self.verb} {self.resource}{named}{where}"


def read_refused(error: Forbidden, program: str = "the operator") -> str:
    """What ``program`` may not read, in one sentence, and what to do."""
    request = error.request
    where = f'in namespace "{request.namespace}"' if request.namespace else "in all namespaces"
    if request.name and not request.namespace:
        where = f'"{request.name}"'
    return (
        f"{program} cannot {request.verb} {request.resource} {where}: {error.message.rstrip('.')}; grant its role"
        f" the verb {request.verb} on {request.resource} (this release's chart does): it goes on by itself"
    )


def error_for(request: Request, code: int, body: str | None) -> ClusterError:
    """The error for an answer with HTTP status ``code``; ``body`` is a ``Status`` object in JSON, or any text."""
    status = _status(body)
    reason = str(status.get("reason") or "")
    message = str(status.get("message") or (body or "").strip()[:300] or f"HTTP {code}")
    # the server's answer to an unknown field in server-side apply
    is_unknown_field = code == 500 and "typed patch object" in message
    match code:
        case 409:
            return (AlreadyExists if reason == "AlreadyExists" else Conflict)(f"{request}: {message}")
        case 404:
            return NotFound(f"{request}: {message}")
        case 401:
            return Unavailable(f"{request}: the API server does not accept the credentials: {message}")
        case 403:
            return Forbidden(request, code, reason or "Forbidden", message)
        case 410:
            return Expired(f"{request}: {message}")
        case 408 | 429:
            return Unavailable(f"{request}: {message}")
        case _ if code >= 500 and not is_unknown_field:
            return Unavailable(f"{request}: {message}")
        case _:
            return RequestRejected(request, code, reason or "Rejected", message)


def _status(body: str | None) -> dict[str, Any]:
    try:
        status = json.loads(body or "")
    except ValueError:
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}
