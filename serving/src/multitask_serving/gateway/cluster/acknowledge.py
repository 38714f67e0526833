"""Says in each TaskRoute's status which generation this gateway follows, by server-side apply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from multitask_kubernetes.client import Client
from multitask_kubernetes.errors import ClusterError, Unavailable
from multitask_serving.gateway.cluster.cluster_routes import TASK_ROUTE
from multitask_serving.gateway.cluster.tables import FollowedTable, Key, Tables

#: Seconds until an entry is written again, doubled each time: the first wait, and the longest after a failure.
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
#: The longest wait if the entry is taken away again and again: two who disagree must not keep the API server busy.
LONGEST_REWRITE_WAIT = 300.0

log = logging.getLogger(__name__)


class Attempt(NamedTuple):
    """What was tried for one generation of a TaskRoute."""

    uid: str
    generation: int
    version: int
    """Resource version of the TaskRoute with the entry; 0: the write failed."""
    times: int
    due: float
    """When it may be written again, in seconds of the event loop."""


class Acknowledger:
    """Writes this gateway's own entry of ``status.gateways``, and nothing else: once for each generation, and again if
    somebody has taken it away. The operator removes the entries of gateways whose pods are gone."""

    def __init__(self, gateway: str, followed: Callable[[], Tables]) -> None:
        self._gateway = gateway
        self._followed = followed
        self._attempts: dict[Key, Attempt] = {}
        self._wake = asyncio.Event()

    def changed(self) -> None:
        """Other generations may be followed now, or the status has other entries."""
        self._wake.set()

    async def run(self, client: Client) -> None:
        """Write what is missing, until cancelled."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            wait = min((self._due(key, table) for key, table in self._missing()), default=None)
            try:
                async with asyncio.timeout(None if wait is None else max(0.0, wait - loop.time())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                for key, table in list(self._missing()):
                    if self._due(key, table) <= loop.time():
                        await self._write(client, key, table)
                failures = 0
            except Unavailable as error:  # of the API server, so that the others would fail too
                log.error("the status of a TaskRoute cannot be written: %s", error)
                await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 10)))
                failures += 1

    def _missing(self) -> Iterator[tuple[Key, FollowedTable]]:
        """The tables whose status lacks what is followed. While the watch is behind a write, that one counts."""
        followed = self._followed()
        self._attempts = {key: attempt for key, attempt in self._attempts.items() if key in followed}
        for key, table in followed.items():
            attempt = self._attempt(key, table)
            is_known = attempt is None or table.version >= attempt.version
            if table.generation not in (0, table.acknowledged) and is_known:
                yield key, table

    def _attempt(self, key: Key, table: FollowedTable) -> Attempt | None:
        attempt = self._attempts.get(key)
        same = attempt is not None and (attempt.uid, attempt.generation) == (table.uid, table.generation)
        return attempt if same else None

    def _due(self, key: Key, table: FollowedTable) -> float:
        attempt = self._attempt(key, table)
        return 0.0 if attempt is None else attempt.due

    async def _write(self, client: Client, key: Key, table: FollowedTable) -> None:
        """Raises Unavailable; another failure concerns this TaskRoute alone, and the next ones have their turn."""
        version, longest = 0, LONGEST_WAIT
        try:
            written = await client.apply_status(self._entry(key, table))
            version, longest = int(written["metadata"]["resourceVersion"]), LONGEST_REWRITE_WAIT
        except Unavailable:
            raise
        except ClusterError as error:
            log.error("the status of TaskRoute %s/%s cannot be written: %s", *key, error)
        before = self._attempt(key, table)
        times = 0 if before is None else before.times
        due = asyncio.get_running_loop().time() + min(longest, FIRST_WAIT * 2.0 ** min(times, 10))
        self._attempts[key] = Attempt(table.uid, table.generation, version, times + 1, due)

    def _entry(self, key: Key, table: FollowedTable) -> dict[str, object]:
        namespace, name = key
        api_version, kind = TASK_ROUTE
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = {"name": self._gateway, "observedGeneration": table.generation, "time": time}
        return {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"namespace": namespace, "name": name, "uid": table.uid},
            "status": {"gateways": [entry]},
        }
