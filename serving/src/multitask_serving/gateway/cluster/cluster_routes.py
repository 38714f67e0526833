"""Follows the TaskRoutes of a cluster, and the EndpointSlices of the Services that they name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from multitask_api.cluster import KIND_LABEL
from multitask_api.routes import Backend
from multitask_api.serving_io.gateway_state import TableVersion
from multitask_api.serving_io.names import SERVING
from multitask_api.serving_io.task_names import short_names_in
from multitask_api.types import JsonObject
from multitask_kubernetes.reflector import Reflector, Source, explained
from multitask_kubernetes.store import Store
from multitask_kubernetes.streams import StreamClient
from multitask_serving.gateway.cluster import slices, tables
from multitask_serving.gateway.cluster.tables import FollowedTable, Key
from multitask_serving.gateway.routes import RouteTable

TASK_ROUTE = ("multitask.dev/v1alpha1", "TaskRoute")
ENDPOINT_SLICE = ("discovery.k8s.io/v1", "EndpointSlice")

#: Seconds from a change to the table with it: what comes together is taken in at once.
SETTLE_SECONDS = 0.02

#: Seconds for which a version waits if some of its tasks would have no server any more. Routes and endpoints come by
#: two watches, and the one may be ahead of the other.
WAIT_FOR_SERVERS_SECONDS = 5.0

#: Slices have the labels of their Service; there are too many others to watch them all.
_SERVING = f"{KIND_LABEL}={SERVING}"

_PROGRAM = "the gateway"

log = logging.getLogger(__name__)


class ClusterRoutes:
    """The routes of ``namespaces`` or, if there are none, of all; ``gateway`` is this one's name.

    ``changed`` is called after ``table`` or an answer of `addresses` has become another one; with whether the table
    has. ``seen`` is called after a TaskRoute was read, also if its status alone is another one. ``short_names``: the
    namespaces whose tasks may have short names; none: all.
    """

    def __init__(self, namespaces: Sequence[str], gateway: str, short_names: Collection[str] = ()) -> None:
        self.table = RouteTable()
        self.changed: Callable[[bool], None] = lambda _: None
        self.seen: Callable[[], None] = lambda: None
        self.listed = asyncio.Event()
        """Set once everything was listed for the first time."""
        self._gateway = gateway
        self._may_be_short = short_names_in(short_names)
        self._followed: dict[Key, FollowedTable] = {}
        self._addresses: dict[tuple[str, str, int], tuple[str, ...]] = {}
        self._stores: dict[tuple[tuple[str, str], str | None], Store] = {}
        self._reflectors: list[Reflector] = []
        for namespace in tuple(namespaces) or (None,):
            routes, endpoints = Store(), Store(slices.without_details, slices.service_of)
            self._stores |= {(TASK_ROUTE, namespace): routes, (ENDPOINT_SLICE, namespace): endpoints}
            self._reflectors += [
                Reflector(Source(TASK_ROUTE, namespace), routes, _PROGRAM),
                Reflector(Source(ENDPOINT_SLICE, namespace, labels=_SERVING), endpoints, _PROGRAM),
            ]
        self._changed_routes: set[Key] = set()
        self._waiting: dict[Key, float] = {}
        """Of versions that wait for servers: since when, in seconds of the event loop."""
        self._are_endpoints_changed = False
        self._wake = asyncio.Event()

    async def run(self, client: StreamClient) -> None:
        """Follow until cancelled. What is known stays in force while the API server is away."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run(client, self._saw))
            tasks.create_task(self._refresh_on_change())

    def faults(self) -> tuple[str, ...]:
        """Why something is not kept current, each reason once."""
        faults = (explained(each.fault, each.source, _PROGRAM) for each in self._reflectors if each.fault is not None)
        return tuple(dict.fromkeys(faults))

    def followed(self) -> tables.Tables:
        """All TaskRoutes."""
        return self._followed

    def versions(self) -> tuple[TableVersion, ...]:
        """All TaskRoutes, as `GatewayState` has them."""
        return tuple(
            TableVersion(namespace=namespace, name=name, generation=each.generation, fault=each.fault)
            for (namespace, name), each in sorted(self._followed.items())
        )

    def addresses(self, namespace: str, backend: Backend) -> Sequence[str]:
        """See `Endpoints`."""
        key = (namespace, backend.service, backend.port)
        known = self._addresses.get(key)
        if known is None:
            store = self._store(ENDPOINT_SLICE, namespace)
            items = store.of_group(namespace, backend.service) if store is not None else ()
            known = self._addresses[key] = slices.addresses(items, backend.port)
        return known

    def _saw(self, source: Source, item: JsonObject) -> None:
        metadata = item["metadata"]
        if source.kind == TASK_ROUTE:
            self._changed_routes.add((metadata["namespace"], metadata["name"]))
        else:
            self._are_endpoints_changed = True
        self._wake.set()

    async def _wait_for_lists(self) -> None:
        """A kind that may not be listed is no list: without it the gateway would answer with half of the routes."""
        while True:
            for reflector in self._reflectors:
                await reflector.settled.wait()
            if not self.faults():
                break
            await asyncio.sleep(0.5)
        self._wake.clear()
        self._refresh()
        self.listed.set()

    async def _refresh_on_change(self) -> None:
        await self._wait_for_lists()
        while True:
            await self._wake.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._wake.clear()
            self._refresh()

    def _refresh(self) -> None:
        keys, self._changed_routes = self._changed_routes | self._waiting.keys(), set()
        if self._are_endpoints_changed:
            self._addresses = {}
        changes = [self._follow(key) for key in keys]
        if any(changes):
            self.table = RouteTable(tables.by_age(self._followed), self._may_be_short)
        if any(changes) or self._are_endpoints_changed:
            self._are_endpoints_changed = False
            self.changed(any(changes))
        if keys:
            self.seen()

    def _follow(self, key: Key) -> bool:
        """Take in a TaskRoute; whether the routes are others now."""
        store = self._store(TASK_ROUTE, key[0])
        item = store.get(*key) if store is not None else None
        before = self._followed.get(key)
        if item is None:
            self._waiting.pop(key, None)
            return self._followed.pop(key, None) is not None
        after = tables.followed(item, before, self._gateway)
        if before is not None and (missing := self._missing_servers(key, before, after)):
            names = ", ".join(missing[:3])
            fault = f"generation {after.generation} waits: no server is known that it names for {names}"
            after = replace(before, fault=fault, acknowledged=after.acknowledged, version=after.version)
        self._followed[key] = after
        if after.fault and (before is None or before.fault != after.fault):
            log.error("TaskRoute %s/%s: the routes of generation %d stay: %s", *key, after.generation, after.fault)
        return before is None or (before.uid, before.generation) != (after.uid, after.generation)

    def _missing_servers(self, key: Key, before: FollowedTable, after: FollowedTable) -> tuple[str, ...]:
        """The tasks whose servers a new version has to wait for; none: it is followed at once."""
        known_since = self._waiting.pop(key, None)
        if before.table is None or after.table is None or before.table is after.table:
            return ()

        def has_server(backend: Backend) -> bool:
            return bool(self.addresses(key[0], backend))

        missing = tables.tasks_that_lose_their_servers(before.table, after.table, has_server)
        loop = asyncio.get_running_loop()
        since = loop.time() if known_since is None else known_since
        is_current = not any(each.fault for each in self._reflectors if each.source.kind == ENDPOINT_SLICE)
        if not missing or (is_current and loop.time() - since >= WAIT_FOR_SERVERS_SECONDS):
            return ()
        self._waiting[key] = since
        loop.call_later(WAIT_FOR_SERVERS_SECONDS, self._wake.set)
        return missing

    def _store(self, kind: tuple[str, str], namespace: str) -> Store | None:
        return self._stores.get((kind, namespace)) or self._stores.get((kind, None))
