"""Runs the gateway: the service, health, reflection; on a route file, which is read again when it changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from multitask_client.proto import gateway_pb2, gateway_pb2_grpc
from multitask_serving.gateway.access.access import Access, current_caller
from multitask_serving.gateway.access.allowed_routes import AllowedRoutes
from multitask_serving.gateway.access.interceptor import AccessInterceptor
from multitask_serving.gateway.access.tls import CertificateFolder
from multitask_serving.gateway.connections import count_connections
from multitask_serving.gateway.dispatch import Dispatcher
from multitask_serving.gateway.endpoints import Endpoints, FixedEndpoints
from multitask_serving.gateway.files.route_file import RouteFile, TableTransform
from multitask_serving.gateway.interceptor import ErrorInterceptor
from multitask_serving.gateway.labels.reports import LabelReports
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.service import TaskGateway
from multitask_serving.gateway.stats import Stats
from multitask_serving.gateway.validation import MAX_REQUEST_BYTES
from multitask_serving.listening import AddressInUse

log = logging.getLogger(__name__)

SERVICE = gateway_pb2.DESCRIPTOR.services_by_name["TaskGateway"].full_name
_RECEIVE_BYTES = 4 * MAX_REQUEST_BYTES
"""gRPC's limit, above ours, so that requests that are too large get our own error."""

_CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _RECEIVE_BYTES),
    # Clients may ask every second whether the connection lives, calls or not; by default gRPC ends it for that.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    # A peer that is gone without a word is noticed, and one that connects and says nothing is not waited for.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)

_AGE_JITTER = 1.1
"""gRPC ends connections at up to a tenth above their age."""
_POLL_S = 0.1

DRAIN_TIMEOUT_S = 5.0
"""How long running calls may continue when the server stops."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a gateway serves.

    Without ``access`` everybody may call everything, without ``certificate`` nothing is encrypted. At
    ``mutual_tls_address`` clients must have a certificate. ``max_connection_age_s``: after so long, give or take a
    tenth, a connection is asked to end when its calls have ended: its client connects again, perhaps to a newer
    gateway. ``drain_s``: how long running calls may continue when the server stops. ``label_key``: signs the ids of
    answers, the same in all gateways; without it no labels are taken.
    """

    access: Access | None = None
    certificate: CertificateFolder | None = None
    mutual_tls_address: str | None = None
    max_connection_age_s: float | None = None
    drain_s: float = DRAIN_TIMEOUT_S
    label_key: bytes | None = None

    def channel_options(self) -> Sequence[tuple[str, int]]:
        """As gRPC takes them."""
        if self.max_connection_age_s is None:
            return _CHANNEL_OPTIONS
        return (*_CHANNEL_OPTIONS, ("grpc.max_connection_age_ms", round(self.max_connection_age_s * 1000)))


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    port: int
    dispatcher: Dispatcher
    current_table: Callable[[], RouteTable]
    health: health.aio.HealthServicer  # type: ignore[name-defined]
    server: grpc.aio.Server
    options: ServerOptions
    mutual_tls_port: int | None = None
    """The port for callers with a certificate."""

    async def start(self) -> None:
        """Accept calls, with the current table."""
        self.follow()
        await self.set_serving(True)
        await self.server.start()

    async def drain(self) -> None:
        """Stop without a call that fails, as far as that can be done: new connections have to go elsewhere by now.

        `grpc.aio.Server.stop` cancels the calls that come while it tells the clients so. The end of a connection by
        its age does not: the client is told (GOAWAY), and what it sends until it has heard is answered. So this waits
        until every connection has ended by its age and with its last call, and stops the server then.
        """
        await self.health.enter_graceful_shutdown()
        age = self.options.max_connection_age_s
        if age is not None:
            await self._until_nobody_is_connected(age * _AGE_JITTER + self.options.drain_s)
        await self.server.stop(self.options.drain_s)

    async def _until_nobody_is_connected(self, limit_s: float) -> None:
        ports = {self.port, self.mutual_tls_port or self.port}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while count_connections(ports) != 0:  # noqa: ASYNC110 - the kernel knows, and gives no event
                    await asyncio.sleep(_POLL_S)

    async def set_serving(self, serving: bool) -> None:
        """Set the status of the health service, of the whole server and of our service."""
        statuses = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self.health.set(name, statuses.SERVING if serving else statuses.NOT_SERVING)

    def follow(self) -> None:
        """The table has changed."""
        self.dispatcher.follow(self.table)

    def follow_endpoints(self) -> None:
        """The endpoints have changed, the table has not."""
        self.dispatcher.follow_endpoints(self.table)

    @property
    def table(self) -> RouteTable:
        """The current route table."""
        return self.current_table()

    @property
    def stats(self) -> Stats:
        """What it has counted."""
        return self.dispatcher.stats


@asynccontextmanager
async def serving_gateway(
    table: Callable[[], RouteTable],
    endpoints: Endpoints,
    address: str,
    *,
    options: ServerOptions | None = None,
    draw: Callable[[], float] = random.random,
) -> AsyncIterator[Gateway]:
    """A gateway at ``address`` (host:port; port 0 is any free port) that drains at the end of the ``async with``.

    Until `Gateway.start`, clients that connect wait. Raises `InvalidCertificate` or `AddressInUse`.
    """
    options = options or ServerOptions()
    access, certificate = options.access, options.certificate
    interceptors = [*([AccessInterceptor(access)] if access else []), ErrorInterceptor(SERVICE)]
    server = grpc.aio.server(interceptors=interceptors, options=options.channel_options())
    dispatcher = Dispatcher(endpoints, Stats(), draw)
    labels = LabelReports(options.label_key, dispatcher.stats) if options.label_key else None
    service = TaskGateway(_routes_of_caller(table, access), dispatcher, labels)
    gateway_pb2_grpc.add_TaskGatewayServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = _listen(server, address, certificate.credentials() if certificate else None)
    mutual_tls_port = None
    if certificate and options.mutual_tls_address:
        credentials = certificate.credentials(require_client_certificate=True)
        mutual_tls_port = _listen(server, options.mutual_tls_address, credentials)
    gateway = Gateway(port, dispatcher, table, healthy, server, options, mutual_tls_port)
    try:
        yield gateway
    finally:
        await gateway.drain()
        await dispatcher.backends.close()


@asynccontextmanager
async def running_gateway(
    routes: Path,
    address: str,
    *,
    transform: TableTransform = lambda table: table,
    draw: Callable[[], float] = random.random,
    reload_s: float = 1.0,
    access: Access | None = None,
    certificate: CertificateFolder | None = None,
    mutual_tls_address: str | None = None,
    label_key: bytes | None = None,
) -> AsyncIterator[Gateway]:
    """Serve the tasks of a route file, at once: see `serving_gateway` and `ServerOptions`.

    The file is checked for changes every ``reload_s`` seconds; ``transform`` is applied to its tables. Raises
    `InvalidRoutes`, `InvalidCertificate` or `AddressInUse`.
    """
    file = RouteFile(routes, transform)
    options = ServerOptions(access, certificate, mutual_tls_address, label_key=label_key)
    async with serving_gateway(lambda: file.table, FixedEndpoints(), address, options=options, draw=draw) as gateway:
        await gateway.start()
        reload_task = asyncio.create_task(_reload_files(file, access, gateway, reload_s))
        try:
            yield gateway
        finally:
            reload_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reload_task


def _routes_of_caller(
    table: Callable[[], RouteTable], access: Access | None
) -> Callable[[], RouteTable | AllowedRoutes]:
    if access is None:
        return table
    return lambda: AllowedRoutes(table(), current_caller.get())


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Open a port. Raises `AddressInUse`."""
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressInUse(f"cannot listen at {address}; another server may use it; choose another address") from error


async def _reload_files(file: RouteFile, access: Access | None, gateway: Gateway, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        if access is not None:
            access.refresh()
        if file.refresh():
            gateway.follow()
