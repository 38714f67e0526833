"""Says in each TaskRoute's status which generation this gateway follows: once for each, by server-side apply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from multitask_kubernetes.client import Client
from multitask_kubernetes.errors import ClusterError, Conflict, NotFound
from multitask_serving.gateway.cluster.cluster_routes import TASK_ROUTE
from multitask_serving.gateway.cluster.tables import FollowedTable, Key, Tables

#: Seconds until a write that failed is tried again: the first wait, doubled after each failure in a row; the longest.
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0

log = logging.getLogger(__name__)


class Acknowledger:
    """Writes this gateway's own entry of ``status.gateways``, and nothing else. The operator removes those of gateways
    that are gone."""

    def __init__(self, gateway: str, followed: Callable[[], Tables]) -> None:
        self._gateway = gateway
        self._followed = followed
        self._written: dict[Key, tuple[str, int]] = {}
        self._wake = asyncio.Event()

    def changed(self) -> None:
        """Other generations may be followed now."""
        self._wake.set()

    async def run(self, client: Client) -> None:
        """Write what is missing, until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                for key, table in self._missing():
                    await self._write(client, key, table)
                failures = 0
            except ClusterError as error:
                log.error("the status of a TaskRoute cannot be written: %s", error)
                await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 10)))
                failures += 1
                self._wake.set()

    def _missing(self) -> list[tuple[Key, FollowedTable]]:
        followed = self._followed()
        self._written = {key: written for key, written in self._written.items() if key in followed}
        return [
            (key, table)
            for key, table in followed.items()
            if table.generation not in (0, table.acknowledged)
            and self._written.get(key) != (table.uid, table.generation)
        ]

    async def _write(self, client: Client, key: Key, table: FollowedTable) -> None:
        namespace, name = key
        api_version, kind = TASK_ROUTE
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = {"name": self._gateway, "observedGeneration": table.generation, "time": time}
        body = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"namespace": namespace, "name": name, "uid": table.uid},
            "status": {"gateways": [entry]},
        }
        try:
            await client.apply_status(body)
        except (NotFound, Conflict) as error:  # deleted, or another object has the name: the watch will say so
            log.info("%s", error)
        self._written[key] = (table.uid, table.generation)
