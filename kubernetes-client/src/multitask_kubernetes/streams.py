"""Requests whose answer comes piece by piece: watches and logs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from multitask_api.types import JsonObject
from multitask_kubernetes.client import METADATA_ONLY, Client
from multitask_kubernetes.errors import Request, Unavailable, error_for
from multitask_kubernetes.hooks import NO_ANSWER
from multitask_kubernetes.kinds import rbac_resource

#: Seconds after which the server ends a watch and this client begins the next one.
WATCH_SECONDS = 300

#: A connection that died without a word is noticed after this silence: bookmarks come about once a minute.
_WATCHING = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=5.0, sock_read=150.0)


class StreamClient(Client):
    """A client that reads streams too."""

    async def watch(
        self,
        api_version: str,
        kind: str,
        namespace: str | None,
        labels: str | None,
        fields: str | None,
        version: str,
        *,
        metadata_only: bool = False,
    ) -> AsyncIterator[JsonObject | None]:
        """None once the server has accepted the watch; then every event after ``version``, until the server ends it.

        Silence ends it too, and so does whoever stands between and closes an idle connection: the next watch goes on
        from the last event, and whether the server is away shows when that one begins.

        An event is ``{"type": "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK", "object": …}``. Raises Expired if the
        version is too old.
        """
        request = Request("watch", rbac_resource(api_version, kind), namespace, None)
        query = [("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", str(WATCH_SECONDS))]
        query += [("resourceVersion", version)]
        query += [(name, text) for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text]
        path = self._resource(api_version, kind).path(namespace=namespace)
        accept = METADATA_ONLY.format("PartialObjectMetadata") if metadata_only else "application/json"
        async with self.opened(request, path, query, _WATCHING, accept) as answer:
            yield None
            lines = _lines(answer.content)
            while (line := await _next(lines)) is not None:
                event: JsonObject = json.loads(line)
                if event["type"] == "ERROR":
                    raise error_for(request, int(event["object"].get("code", 500)), json.dumps(event["object"]))
                yield event

    @asynccontextmanager
    async def opened(
        self,
        request: Request,
        path: str,
        query: list[tuple[str, str]],
        limit: aiohttp.ClientTimeout,
        accept: str = "*/*",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response before its body is read: the generated methods have no time limit for the connection alone."""
        try:
            asked = await self._api.param_serialize(
                "GET", path, query_params=query, header_params={"Accept": accept}, auth_settings=["BearerToken"]
            )
            answer: aiohttp.ClientResponse = (await self._api.call_api(*asked, _request_timeout=limit)).response
            self._count(request, str(answer.status))
            async with answer:
                if answer.status != 200:
                    raise error_for(request, answer.status, await answer.text())
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError) as error:
            self._count(request, NO_ANSWER)
            raise Unavailable(
                f"{request}: no answer from the API server: {str(error) or type(error).__name__}"
            ) from error


async def _next(lines: AsyncIterator[bytes]) -> bytes | None:
    """The next line of a watch; None at its end."""
    try:
        return await anext(lines, None)
    except (TimeoutError, aiohttp.ClientPayloadError):
        return None


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: `aiohttp.StreamReader.readline` gives up at twice its buffer's size."""
    parts: list[bytes] = []
    async for piece in content.iter_any():
        *ends, rest = piece.split(b"\n")
        for end in ends:
            line = b"".join((*parts, end))
            parts.clear()
            if line:
                yield line
        if rest:
            parts.append(rest)
