"""A watch on which nothing happens ends, by silence or by whoever closes idle connections; that is no error."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import aiohttp
import pytest
from aiohttp import web

from multitask_kubernetes import streams
from multitask_kubernetes.connection import connect
from multitask_kubernetes.reflector import Reflector, Source
from multitask_kubernetes.store import Store
from multitask_kubernetes.streams import StreamClient

PATH = "/api/v1/namespaces/team/pods"
KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{0}"}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
"""


class IdleServer:
    """An API server without Pods whose watches show nothing; ``closes``: it cuts each of them after a while."""

    def __init__(self, closes: bool) -> None:
        self.closes = closes
        self.versions: list[str] = []

    async def pods(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response(
                {"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": []}
            )
        self.versions.append(request.query["resourceVersion"])
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        await asyncio.sleep(0.7 if self.closes else 60)
        if request.transport is not None:
            request.transport.abort()
        return answer


@pytest.mark.parametrize("closes", [False, True])
async def test_an_idle_watch_ends_and_the_next_one_goes_on_without_an_error(
    closes: bool, tmp_path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = aiohttp.ClientTimeout(total=60, sock_read=60 if closes else 0.7)
    monkeypatch.setattr(streams, "_WATCHING", limit)
    server = IdleServer(closes)
    application = web.Application()
    application.add_routes([web.get(PATH, server.pods)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        config = tmp_path / "config"
        config.write_text(KUBECONFIG.format(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        reflector = Reflector(Source(("v1", "Pod"), "team"), Store())
        async with StreamClient(await connect(config)) as client:
            running = asyncio.create_task(reflector.run(client, lambda *_: None))
            with caplog.at_level(logging.INFO):
                async with asyncio.timeout(30):
                    while len(server.versions) < 3:  # noqa: ASYNC110 - the server counts, and gives no event
                        await asyncio.sleep(0.05)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    finally:
        await runner.cleanup()
    assert set(server.versions) == {"7"}
    assert reflector.fault is None
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
