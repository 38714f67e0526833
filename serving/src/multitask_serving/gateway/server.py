"""Puts the gateway together: the service, health, reflection, and the route file it follows."""

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
from multitask_serving.gateway.interceptor import FaultInterceptor
from multitask_serving.gateway.requests import MAX_REQUEST_BYTES
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.service import TaskGateway
from multitask_serving.gateway.stats import Stats
from multitask_serving.gateway.triton import Backends
from multitask_serving.gateway.watch import Adapt, RouteFile
from multitask_serving.programs import host_and_port
from multitask_serving.proto import gateway_pb2, gateway_pb2_grpc

log = logging.getLogger(__name__)

SERVICE = gateway_pb2.DESCRIPTOR.services_by_name["TaskGateway"].full_name
_RECEIVE_BYTES = 4 * MAX_REQUEST_BYTES
"""What gRPC lets through, so that requests too large get an answer of ours."""

DRAIN_S = 5.0
"""Calls under way may go on for this long after the end was asked for."""


class AddressInUse(UserError):
    """The gateway cannot listen at its address."""


def check_address(address: str) -> None:
    """Raise `AddressInUse` if nobody could listen at ``address`` now: before something slow is started for it."""
    parts = host_and_port(address, first_port=0)
    if parts is None:
        raise AddressInUse(f"{address!r} is not host:port; 127.0.0.1:8081, for example")
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

    @property
    def table(self) -> RouteTable:
        """The route table in force."""
        return self.routes.table


@asynccontextmanager
async def running_gateway(
    routes: Path,
    address: str,
    *,
    adapt: Adapt = lambda table: table,
    draw: Callable[[], float] = random.random,
    reload_s: float = 1.0,
) -> AsyncIterator[Gateway]:
    """Serve at ``address`` (host:port; port 0 is any) while the ``async with`` lasts; then drain.

    The route file is looked at every ``reload_s`` seconds; ``adapt`` changes its tables as they are read. Raises
    `InvalidRoutes` or `AddressInUse`.
    """
    file, stats, backends = RouteFile(routes, adapt), Stats(), Backends()
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _RECEIVE_BYTES)]
    server = grpc.aio.server(interceptors=[FaultInterceptor(SERVICE)], options=options)
    service = TaskGateway(lambda: file.table, backends, stats, draw)
    gateway_pb2_grpc.add_TaskGatewayServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressInUse(f"cannot listen at {address}; is another server there? Choose another address") from error
    await server.start()
    for name in ("", SERVICE):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    follower = asyncio.create_task(_follow(file, backends, reload_s))
    try:
        yield Gateway(port, stats, file)
    finally:
        await healthy.enter_graceful_shutdown()
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower
        await server.stop(DRAIN_S)
        await backends.close()


async def _follow(file: RouteFile, backends: Backends, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        if file.refresh():
            routed = [backend for route in file.table.routes for backend in route.task.backends]
            await backends.keep_only({f"{backend.service}:{backend.port}" for backend in routed})
