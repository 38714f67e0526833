"""Runs the gateway of a cluster until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from multitask_api.errors import UserError
from multitask_api.serving_io.gateway_state import GatewayState, TakenName
from multitask_api.types import JsonDict, JsonObject
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_kubernetes.streams import StreamClient
from multitask_serving.gateway.access.access import Access
from multitask_serving.gateway.access.callers import CallersFile
from multitask_serving.gateway.access.reviews import TokenReviews
from multitask_serving.gateway.access.tls import CertificateFolder
from multitask_serving.gateway.cluster import http
from multitask_serving.gateway.cluster.acknowledge import Acknowledger
from multitask_serving.gateway.cluster.cluster_routes import ClusterRoutes
from multitask_serving.gateway.cluster.metrics import GatewayMetrics
from multitask_serving.gateway.cluster.settings import GatewaySettings, read_settings
from multitask_serving.gateway.labels.request_ids import read_key
from multitask_serving.gateway.server import Gateway, ServerOptions, serving_gateway

BAD_INPUT = 2
REFRESH_SECONDS = 1.0
"""How often the file of callers is looked at."""

log = logging.getLogger(__name__)


class GatewayProgram:
    """One run of the program."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._started = time.time()
        self._routes = ClusterRoutes(settings.namespaces, settings.name, settings.short_name_namespaces)
        self._acknowledger = Acknowledger(settings.name, self._routes.followed)

    def stop(self) -> None:
        """End `run`: callers are sent elsewhere, and calls that run may end."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stopped. Raises ConnectionConfigError and AddressInUse."""
        settings = self._settings
        configuration = await connect(settings.kubeconfig, settings.context)
        client = StreamClient(configuration, connections=0, field_manager=settings.name)
        access = access_of(settings, client)
        async with (
            client,
            self._gateway(access) as gateway,
            http.served(
                settings.state_listen,
                lambda: self._state(gateway),
                self._unready,
                GatewayMetrics(gateway, self._routes).registry,
            ) as port,
        ):
            log.info("listening on port %d, state on port %d, as %s", gateway.port, port, settings.name)
            await self._work(client, gateway, access)
        log.info("ended")

    def _gateway(self, access: Access | None) -> AbstractAsyncContextManager[Gateway]:
        settings, routes = self._settings, self._routes
        options = ServerOptions(
            access=access,
            certificate=CertificateFolder(settings.tls_folder) if settings.tls_folder else None,
            mutual_tls_address=settings.mutual_tls_listen,
            max_connection_age_s=settings.max_connection_age_s or None,
            drain_s=settings.drain_s,
            label_key=read_key(settings.label_key_file) if settings.label_key_file else None,
        )
        return serving_gateway(lambda: routes.table, routes, settings.listen, options=options)

    async def _work(self, client: StreamClient, gateway: Gateway, access: Access | None) -> None:
        def changed(is_table_changed: bool) -> None:
            if not is_table_changed:
                gateway.follow_endpoints()
                return
            gateway.follow()

        self._routes.changed = changed
        self._routes.seen = self._acknowledger.changed
        works = (self._routes.run(client), self._acknowledger.run(client), _refresh(access), self._serve(gateway))
        tasks = [asyncio.create_task(work) for work in works]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _serve(self, gateway: Gateway) -> None:
        """Accept calls once everything is known, and end in order."""
        if await self._listed_or_stopped():
            await gateway.start()
            log.info("%d tasks are routed", len(gateway.table.routes))
        await self._stopping.wait()
        log.info("ending: callers are sent elsewhere for %g s", self._settings.drain_delay_s)
        await gateway.set_serving(False)
        await asyncio.sleep(self._settings.drain_delay_s)
        await gateway.drain()

    async def _listed_or_stopped(self) -> bool:
        waits = [asyncio.create_task(event.wait()) for event in (self._routes.listed, self._stopping)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return self._routes.listed.is_set()

    def _unready(self) -> str:
        if self._stopping.is_set():
            return "the gateway is ending"
        if not self._routes.listed.is_set():
            return "; ".join(self._routes.faults()) or "the TaskRoutes have not been listed yet"
        return ""

    def _state(self, gateway: Gateway) -> GatewayState:
        return GatewayState(
            gateway=self._settings.name,
            started=self._started,
            tables=self._routes.versions(),
            counts=gateway.stats.window_counts(),
            names_taken=tuple(
                TakenName(task=task, name=taken.name, owner=taken.owner) for task, taken in gateway.table.taken()
            ),
        )


def access_of(settings: GatewaySettings, client: Client) -> Access | None:
    """Who may call; None: everybody. Raises InvalidCallers."""

    async def review(body: JsonDict) -> JsonObject:
        return await client.create({"metadata": {}, **body})

    if settings.callers_file is None:
        return None
    return Access(CallersFile(settings.callers_file), TokenReviews(review) if settings.review_tokens else None)


async def _refresh(access: Access | None) -> None:
    while access is not None:
        access.refresh()
        await asyncio.sleep(REFRESH_SECONDS)
    await asyncio.Event().wait()


async def _run(settings: GatewaySettings) -> None:
    program = GatewayProgram(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, program.stop)
    await program.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Exit status 0: ended by SIGTERM; 2: wrong arguments, or an address that is taken."""
    settings = read_settings(arguments)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        asyncio.run(_run(settings))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a program's output
        return BAD_INPUT
    return 0
