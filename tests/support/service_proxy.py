"""A Service as kube-proxy makes it: a new connection goes to one of the servers that are ready, and stays there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager


class ServiceProxy:
    """``ready``: the ports on 127.0.0.1 that get new connections; a test changes it."""

    def __init__(self, ready: Sequence[int]) -> None:
        self.ready = list(ready)
        self.port = 0
        self.flows = asyncio.Event()
        """Cleared, nothing goes through any more, and nobody is told: as if the node were gone."""
        self.flows.set()
        self.running: set[asyncio.Task[None]] = set()
        self._turn = itertools.count()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connect(reader, writer))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self.ready[next(self._turn) % len(self.ready)]
        try:
            there, here = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._copy(reader, here), self._copy(there, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self.flows.wait()
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()


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
        for task in proxy.running:
            task.cancel()
        await asyncio.gather(*proxy.running, return_exceptions=True)
