"""What a `Client` shows of its requests to those who count them or learn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Protocol

import aiohttp

from multitask_api.types import JsonObject
from multitask_kubernetes.errors import Request

Count = Callable[[Request, str], None]
"""Called with every request and the HTTP status of its answer, or `NO_ANSWER`."""

NO_ANSWER = "<error>"

#: Of the latest answer in this task: the generated client does not give it on.
status: ContextVar[int] = ContextVar("status", default=0)


def nothing() -> None:
    """The default of ``after_write``."""


def uncounted(_: Request, __: str) -> None:
    """The default of ``count``."""


class Observer(Protocol):
    """Is shown what the API server answered, in order."""

    def saw(self, item: JsonObject) -> None:
        """The server returned this object to a get or to a write."""

    def saw_list(
        self,
        kind: tuple[str, str],
        namespace: str | None,
        labels: str | None,
        items: Sequence[JsonObject],
        version: str,
    ) -> None:
        """These were all objects of ``kind`` (apiVersion, kind) with ``labels``, at that resource version."""


def noting_the_status() -> aiohttp.TraceConfig:
    """Keeps `status` current."""

    async def note(_: object, __: object, end: aiohttp.TraceRequestEndParams) -> None:
        status.set(end.response.status)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(note)
    return trace
