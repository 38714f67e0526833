"""The gateway's connections to Triton servers: one for each server, kept as long as a route names it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from multitask_api.errors import Problem
from multitask_api.routes import Backend
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


@dataclass(slots=True)
class _Connection:
    client: TritonClient
    active: int = 0
    retired: bool = False

    async def close_if_idle(self) -> None:
        if self.retired and not self.active:
            await self.client.close()


class Backends:
    """The connections to all Triton servers, each made on first use."""

    def __init__(self) -> None:
        self._connections: dict[str, _Connection] = {}

    async def infer(
        self, backend: Backend, task: str, fields: Mapping[str, str], options: wire.Options, *, timeout_s: float
    ) -> AsyncGenerator[InferResponse, None]:
        """The responses of one Triton server. Raises `StatusError`; after `NoBackend`, another server may succeed."""
        connection = self._connect(f"{backend.service}:{backend.port}")
        connection.active += 1
        try:
            async with aclosing(connection.client.infer(task, fields, options, timeout_s=timeout_s)) as responses:
                async for response in responses:
                    yield response
        except BackendError as error:
            raise to_status_error(error) from error
        finally:
            connection.active -= 1
            await connection.close_if_idle()

    async def close_others(self, addresses: Collection[str]) -> None:
        """Close the connections to all but ``addresses`` (host:port), each after its last call has ended."""
        for address in [address for address in self._connections if address not in addresses]:
            connection = self._connections.pop(address)
            connection.retired = True
            await connection.close_if_idle()

    async def close(self) -> None:
        """Close all connections."""
        await self.close_others(())

    def _connect(self, address: str) -> _Connection:
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = _Connection(TritonClient(address))
        return connection


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
