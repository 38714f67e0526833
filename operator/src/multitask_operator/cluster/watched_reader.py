"""Reads from the watches, and live the little that no watch shows: each such answer is kept as long as it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from multitask_api.types import JsonObject
from multitask_kubernetes.client import Client
from multitask_kubernetes.errors import NotFound, Request
from multitask_operator.cluster.cache import CONFIGMAP, EVENT, Cache

#: Seconds for which the Events about an object are not read again, if no Warning about it has come since.
EVENTS_SECONDS = 60.0

#: Answers of a kind that are kept, at most.
_MOST = 1000

_INVOLVED = "involvedObject.uid="


class _Read(NamedTuple):
    """Events about an object, the newest Warning that was known then, and when they were read."""

    events: tuple[JsonObject, ...]
    newest: int
    at: float


class WatchedReader:
    """A `Reader` that makes no request about what ``cache`` holds. ``clock`` gives seconds and is monotonic."""

    def __init__(self, cache: Cache, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._client = client
        self._clock = clock
        self._events: dict[str, _Read] = {}
        self._configmaps: dict[tuple[str, str], JsonObject] = {}

    async def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> JsonObject:
        """See `Client.get`. A ConfigMap by its name is one that a model refers to, and may be anybody's."""
        if (api_version, kind) == CONFIGMAP:
            return await self._configmap(namespace or "", name)
        return await self._cache.get(api_version, kind, name, namespace)

    async def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> tuple[JsonObject, ...]:
        """See `Client.list`. Events about an object are read once there is a Warning among them."""
        if (api_version, kind) == EVENT and fields is not None:
            return await self._events_about(namespace or "", fields.removeprefix(_INVOLVED))
        return await self._cache.list(api_version, kind, namespace, labels, fields)

    async def _configmap(self, namespace: str, name: str) -> JsonObject:
        version = self._cache.configmap_version(namespace, name)
        if version is None:
            raise NotFound(f"{Request('get', 'configmaps', namespace, name)}: no watch has shown it")
        known = self._configmaps.get((namespace, name))
        if known is not None and int(known["metadata"]["resourceVersion"]) >= version:
            return known
        item = await self._client.get(*CONFIGMAP, name, namespace)
        if len(self._configmaps) >= _MOST:
            self._configmaps.clear()
        self._configmaps[namespace, name] = item
        return item

    async def _events_about(self, namespace: str, uid: str) -> tuple[JsonObject, ...]:
        newest = self._cache.newest_warning(namespace, uid)
        if newest is None:
            return ()
        known, now = self._events.get(uid), self._clock()
        if known is not None and known.newest == newest and now - known.at < EVENTS_SECONDS:
            return known.events
        events = await self._client.list(*EVENT, namespace, fields=f"{_INVOLVED}{uid}")
        if len(self._events) >= _MOST:
            self._events.clear()
        self._events[uid] = _Read(events, newest, now)
        return events
