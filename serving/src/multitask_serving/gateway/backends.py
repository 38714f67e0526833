"""The gateway's connections to Triton servers: one for each server, kept as long as a route leads to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from multitask_api.errors import Problem
from multitask_serving.gateway.choice import Server
from multitask_serving.gateway.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NoBackend,
    Overloaded,
    StatusError,
)
from multitask_serving.triton import wire
from multitask_serving.triton.client import (
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    InferResponse,
    TritonClient,
)
from multitask_serving.triton.probe import read_status

FIRST_SUSPICION_S, LONGEST_SUSPICION_S = 0.5, 10.0
"""For how long a server that was unavailable is asked only if there is no other; doubled after each failure in a row.
Without this, a server that fails at once would look like the least busy one."""


@dataclass(slots=True)
class _Connection:
    client: TritonClient
    in_flight: int = 0
    retired: bool = False
    device: str = ""
    failures: int = 0
    suspect_until: float = 0.0


class Backends:
    """The connections to all Triton servers, each made on first use. ``clock`` gives seconds and is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._connections: dict[str, _Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def servers(self, addresses: Sequence[str]) -> list[Server]:
        """What is known of the servers at these addresses."""
        now, servers = self._clock(), []
        for address in addresses:
            known = self._connections.get(address)
            if known is None:
                servers.append(Server(address))
            else:
                servers.append(Server(address, known.in_flight, now < known.suspect_until))
        return servers

    async def infer(
        self, address: str, task: str, fields: Mapping[str, str], options: wire.Options, *, timeout_s: float
    ) -> AsyncGenerator[InferResponse, None]:
        """The responses of one Triton server. Raises `StatusError`; after `NoBackend`, another server may succeed."""
        connection = self._connect(address)
        connection.in_flight += 1
        try:
            async with aclosing(connection.client.infer(task, fields, options, timeout_s=timeout_s)) as responses:
                async for response in responses:
                    connection.failures, connection.suspect_until = 0, 0.0
                    yield response
        except BackendError as error:
            if isinstance(error, BackendUnavailable):
                self._suspect(connection)
            raise to_status_error(error) from error
        finally:
            connection.in_flight -= 1
            self._close_if_idle(connection)

    async def device(self, address: str, *, timeout_s: float) -> str:
        """What computes the answers of a server, which is asked once; empty: it does not say."""
        connection = self._connect(address)
        if not connection.device:
            connection.in_flight += 1
            try:
                status = await read_status(connection.client, timeout_s=timeout_s)
            finally:
                connection.in_flight -= 1
                self._close_if_idle(connection)
            connection.device = status.device if status is not None else ""
        return connection.device

    def keep(self, addresses: Collection[str]) -> None:
        """Close the connections to all but ``addresses``, each after its last call has ended."""
        for address in [address for address in self._connections if address not in addresses]:
            connection = self._connections.pop(address)
            connection.retired = True
            self._close_if_idle(connection)

    async def close(self) -> None:
        """Close all connections."""
        self.keep(())
        while self._closing:
            await asyncio.wait(self._closing)

    def _suspect(self, connection: _Connection) -> None:
        seconds = min(LONGEST_SUSPICION_S, FIRST_SUSPICION_S * 2.0 ** min(connection.failures, 10))
        connection.failures += 1
        connection.suspect_until = self._clock() + seconds

    def _connect(self, address: str) -> _Connection:
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = _Connection(TritonClient(address))
        return connection

    def _close_if_idle(self, connection: _Connection) -> None:
        if connection.retired and not connection.in_flight:
            task = asyncio.create_task(connection.client.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def to_status_error(error: BackendError) -> StatusError:
    """The gateway's error for an error of a Triton server."""
    match error:
        case BackendOverloaded():
            return Overloaded("the server is overloaded; try again in a moment, or send fewer requests at once")
        case BackendTimeout():
            return DeadlineExceeded("no answer within the deadline; allow more time, or send fewer requests at once")
        case BackendUnavailable():
            return NoBackend(f"the task's server is not available ({error}); try again in a moment")
        case BackendRejected():
            return _from_wire_error(error.error)
    return InternalError(f"the task's server failed: {error}")


def _from_wire_error(error: wire.WireError) -> StatusError:
    if error.code in {wire.INVALID_REQUEST, wire.MISSING_FIELD}:
        return InvalidRequest([Problem(error.field, error.message)])
    if error.code == wire.UNKNOWN_TASK:
        return NoBackend(f"the routes lead to a server that does not have the task: {error.message}")
    return InternalError(error.message)
