"""Runs the gateway: the service, health, reflection, and reloading of the route file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from multitask_api.errors import UserError
from multitask_client.proto import gateway_pb2, gateway_pb2_grpc
from multitask_serving.cli_common import parse_host_port
from multitask_serving.gateway.access.access import Access, current_caller
from multitask_serving.gateway.access.allowed_routes import AllowedRoutes
from multitask_serving.gateway.access.interceptor import AccessInterceptor
from multitask_serving.gateway.access.tls import CertificateFolder
from multitask_serving.gateway.backends import Backends
from multitask_serving.gateway.interceptor import ErrorInterceptor
from multitask_serving.gateway.route_file import RouteFile, TableTransform
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.service import TaskGateway
from multitask_serving.gateway.stats import Stats
from multitask_serving.gateway.validation import MAX_REQUEST_BYTES

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

DRAIN_TIMEOUT_S = 5.0
"""How long running calls may continue when the server stops."""


class AddressInUse(UserError):
    """The gateway cannot listen at its address."""


def check_address(address: str) -> None:
    """Raise `AddressInUse` if a server cannot listen at ``address`` now. Call it before starting something slow."""
    parts = parse_host_port(address, first_port=0)
    if parts is None:
        raise AddressInUse(f"{address!r} is not host:port, for example 127.0.0.1:8081")
    host, port = parts
    try:
        with socket.create_server((host.strip("[]"), port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise AddressInUse(f"cannot listen at {address}: {error}. Choose another address") from error


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    port: int
    stats: Stats
    routes: RouteFile
    health: health.aio.HealthServicer  # type: ignore[name-defined]
    mutual_tls_port: int | None = None
    """The port for callers with a certificate."""

    async def set_serving(self, serving: bool) -> None:
        """Set the status of the health service, of the whole server and of our service."""
        statuses = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self.health.set(name, statuses.SERVING if serving else statuses.NOT_SERVING)

    @property
    def table(self) -> RouteTable:
        """The current route table."""
        return self.routes.table


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
) -> AsyncIterator[Gateway]:
    """Serve at ``address`` (host:port; port 0 is any free port) inside the ``async with``, then drain.

    The route file is checked for changes every ``reload_s`` seconds; ``transform`` is applied to its tables. Without
    ``access`` everybody may call everything, without ``certificate`` nothing is encrypted. At ``mutual_tls_address``
    clients must have a certificate. Raises `InvalidRoutes`, `InvalidCertificate` or `AddressInUse`.
    """
    file, stats, backends = RouteFile(routes, transform), Stats(), Backends()
    interceptors = [*([AccessInterceptor(access)] if access else []), ErrorInterceptor(SERVICE)]
    server = grpc.aio.server(interceptors=interceptors, options=_CHANNEL_OPTIONS)
    service = TaskGateway(_routes_of_caller(file, access), backends, stats, draw)
    gateway_pb2_grpc.add_TaskGatewayServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = _listen(server, address, certificate.credentials() if certificate else None)
    mutual_tls_port = None
    if certificate and mutual_tls_address:
        mutual_tls_port = _listen(server, mutual_tls_address, certificate.credentials(require_client_certificate=True))
    await server.start()
    gateway = Gateway(port, stats, file, healthy, mutual_tls_port)
    await gateway.set_serving(True)
    reload_task = asyncio.create_task(_reload_files(file, access, backends, reload_s))
    try:
        yield gateway
    finally:
        await healthy.enter_graceful_shutdown()
        reload_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reload_task
        await server.stop(DRAIN_TIMEOUT_S)
        await backends.close()


def _routes_of_caller(file: RouteFile, access: Access | None) -> Callable[[], RouteTable | AllowedRoutes]:
    if access is None:
        return lambda: file.table
    return lambda: AllowedRoutes(file.table, current_caller.get())


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Open a port. Raises `AddressInUse`."""
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressInUse(f"cannot listen at {address}; another server may use it. Choose another address") from error


async def _reload_files(file: RouteFile, access: Access | None, backends: Backends, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        if access is not None:
            access.refresh()
        if file.refresh():
            routed = [backend for route in file.table.routes for backend in route.task.backends]
            await backends.close_others({f"{backend.service}:{backend.port}" for backend in routed})
