"""Where the servers of a backend are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from multitask_api.routes import Backend


class Endpoints(Protocol):
    """Says which servers may get requests now."""

    def addresses(self, namespace: str, backend: Backend) -> Sequence[str]:
        """The servers of a backend of a task in that namespace, as host:port; the same list until they change."""


class FixedEndpoints:
    """Of a route file: a backend is one server, whose host the file names."""

    def addresses(self, namespace: str, backend: Backend) -> Sequence[str]:
        """See `Endpoints`."""
        return (f"{backend.service}:{backend.port}",)
