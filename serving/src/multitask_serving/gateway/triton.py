"""The gateway's way to its Triton servers: one connection a backend, kept as long as a route names it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from multitask_api.errors import Problem
from multitask_api.routes import Backend
from multitask_serving.gateway.faults import (
    DeadlineExceeded,
    Fault,
    InternalFault,
    InvalidRequest,
    NoBackend,
    Overloaded,
)
from multitask_serving.triton import wire
from multitask_serving.triton.client import (
    Answer,
    BackendError,
    BackendOverloaded,
    BackendRefused,
    BackendTimeout,
    BackendUnavailable,
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
    """All connections, made when first needed."""

    def __init__(self) -> None:
        self._connections: dict[str, _Connection] = {}

    async def ask(
        self, backend: Backend, task: str, fields: Mapping[str, str], options: wire.Options, *, timeout_s: float
    ) -> AsyncGenerator[Answer, None]:
        """The backend's answers. Raises `Fault`; `NoBackend` means that another backend may do better."""
        connection = self._connect(f"{backend.service}:{backend.port}")
        connection.active += 1
        try:
            async with aclosing(connection.client.infer(task, fields, options, timeout_s=timeout_s)) as answers:
                async for answer in answers:
                    yield answer
        except BackendError as error:
            raise to_fault(error) from error
        finally:
            connection.active -= 1
            await connection.close_if_idle()

    async def keep_only(self, addresses: Collection[str]) -> None:
        """Close the connections to all others (host:port), each when its last call has ended."""
        for address in [address for address in self._connections if address not in addresses]:
            connection = self._connections.pop(address)
            connection.retired = True
            await connection.close_if_idle()

    async def close(self) -> None:
        """Close all connections."""
        await self.keep_only(())

    def _connect(self, address: str) -> _Connection:
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = _Connection(TritonClient(address))
        return connection


def to_fault(error: BackendError) -> Fault:
    """What a caller hears of a backend's error."""
    match error:
        case BackendOverloaded():
            return Overloaded("the server is at its limit; try again in a moment, or ask less at once")
        case BackendTimeout():
            return DeadlineExceeded("the answer was not there in time; allow more, or ask less at once")
        case BackendUnavailable():
            return NoBackend(f"the task's server does not answer ({error}); try again in a moment")
        case BackendRefused():
            return _refusal(error.error)
    return InternalFault(f"the task's server failed: {error}")


def _refusal(error: wire.WireError) -> Fault:
    if error.code in {wire.INVALID_REQUEST, wire.MISSING_FIELD}:
        return InvalidRequest([Problem(error.field, error.message)])
    if error.code == wire.UNKNOWN_TASK:
        return NoBackend(f"the routes name a server that does not have the task: {error.message}")
    return InternalFault(error.message)
