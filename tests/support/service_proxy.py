"""A Service as kube-proxy makes it: a new connection goes to one of the servers that are ready, and stays there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager


class ServiceProxy:
    """``ready``: the ports on 127.0.0.1 that get new connections; a test changes it."""

    def __init__(self, ready: Sequence[int]) -> None:
        self.ready = list(ready)
        self.port = 0
        self._turn = itertools.count()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self.ready[next(self._turn) % len(self.ready)]
        try:
            there, here = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, here), _copy(there, writer))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        target.close()
        await target.wait_closed()


@asynccontextmanager
async def proxied(*ready: int) -> AsyncIterator[ServiceProxy]:
    """Listen on a free port of 127.0.0.1."""
    proxy = ServiceProxy(ready)
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
