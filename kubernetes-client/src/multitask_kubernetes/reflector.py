"""Keeps a `Store` current: one list, then one watch after the other, from where the last one ended."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from multitask_api.types import JsonObject
from multitask_kubernetes.errors import ClusterError, Expired, Forbidden, NotFound, read_refused
from multitask_kubernetes.store import Entry, Name, Store
from multitask_kubernetes.streams import StreamClient

#: Seconds between two attempts: the first wait, doubled after each failure in a row, and the longest.
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0

#: A refusal is no news for this many seconds: an API server that starts refuses what it allows a moment later.
REFUSAL_GRACE_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What is listed and watched: kind (apiVersion, kind), namespace (None: all), selectors, and whether objects come
    without their content."""

    kind: tuple[str, str]
    namespace: str | None = None
    labels: str | None = None
    fields: str | None = None
    metadata_only: bool = False


Changed = Callable[[Source, JsonObject], None]


class Reflector:
    """Fills ``store`` from ``source``; ``program`` is who does, in messages."""

    def __init__(self, source: Source, store: Store, program: str = "the operator") -> None:
        self.source = source
        self.settled = asyncio.Event()
        """Set once everything has been listed, or that was refused."""
        self.fault: ClusterError | None = None
        """Why the store is not kept current; None while it is."""
        self._store = store
        self._program = program
        self._version: str | None = None
        self._failures = 0
        self._refused_at: float | None = None

    def refusal(self) -> Forbidden | None:
        """The fault if it is a missing permission, and has been for a while."""
        if not isinstance(self.fault, Forbidden) or self._refused_at is None:
            return None
        is_standing = asyncio.get_running_loop().time() - self._refused_at >= REFUSAL_GRACE_SECONDS
        return self.fault if is_standing else None

    async def run(self, client: StreamClient, changed: Changed) -> None:
        """List and watch until cancelled. ``changed`` is called with the source and every object that changed, after
        the store has the change."""
        while True:
            began = asyncio.get_running_loop().time()
            try:
                if self._version is None:
                    self._version = await self._list(client, changed)
                self._version = await self._watch(client, changed, self._version)
                self._failures = 0
            except Expired as error:
                logger.info("%s; listing again", error)
                self._version = None
                self._failures += 1
            except ClusterError as error:
                self._failed(error)
            # A server that ends every watch at once is not asked without a pause.
            lasted = asyncio.get_running_loop().time() - began
            if self._failures or lasted < FIRST_WAIT:
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(max(self._failures - 1, 0), 10))
                await asyncio.sleep(wait * random.uniform(0.75, 1.25))

    async def _list(self, client: StreamClient, changed: Changed) -> str:
        source, version = self.source, ""
        entries: dict[Name, Entry] = {}
        async for page, listed in client.pages(
            *source.kind, source.namespace, source.labels, source.fields, metadata_only=source.metadata_only
        ):
            entries.update(self._store.packed(item) for item in page)
            version = listed
        for item in self._store.replace(entries, version):
            changed(source, item)
        self.settled.set()
        return version

    async def _watch(self, client: StreamClient, changed: Changed, version: str) -> str:
        """Gives the version from which to go on."""
        source = self.source
        async for event in client.watch(
            *source.kind, source.namespace, source.labels, source.fields, version, metadata_only=source.metadata_only
        ):
            if event is None:
                self._works()
                continue
            item: JsonObject = event["object"]
            self._version = version = item["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                continue
            (self._store.drop if event["type"] == "DELETED" else self._store.put)(item)
            changed(source, item)
        return version

    def _works(self) -> None:
        if self.fault is not None:
            logger.info("%s goes on", self._name())
        self.fault, self._refused_at, self._failures = None, None, 0

    def _failed(self, error: ClusterError) -> None:
        if isinstance(error, Forbidden):
            self._refused_at = self._refused_at or asyncio.get_running_loop().time()
            self.settled.set()
        else:
            self._refused_at = None
        if isinstance(error, NotFound):  # the kind itself: its objects are gone with it
            self._version = None
        if str(self.fault) != str(error):
            logger.error("%s does not go on: %s", self._name(), explained(error, self.source, self._program))
        self.fault = error
        self._failures += 1

    def _name(self) -> str:
        return f"the watch of {self.source.kind[1]}s in {self.source.namespace or 'all namespaces'}"


def explained(error: ClusterError, source: Source, program: str = "the operator") -> str:
    """Why ``source`` is not kept current, and what helps."""
    if isinstance(error, NotFound):
        return f"the cluster does not know the kind {source.kind[1]}: install the CRDs"
    return read_refused(error, program) if isinstance(error, Forbidden) else str(error)
