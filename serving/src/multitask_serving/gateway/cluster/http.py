"""The gateway's own port: ``/state`` for the operator, ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for
the kubelet. No caller of tasks needs to reach it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from multitask_api.serving_io.gateway_state import GatewayState
from multitask_serving.cli_common import parse_host_port
from multitask_serving.listening import AddressInUse


@contextlib.asynccontextmanager
async def served(
    address: str,
    state: Callable[[], GatewayState],
    unready: Callable[[], str],
    registry: CollectorRegistry,
) -> AsyncIterator[int]:
    """Answer at ``address`` (host:port; port 0: any free one); the context gives the port.

    healthz: 200 while the program runs. readyz: 200 while ``unready()``, the reason why no caller should be sent here,
    is empty, else 503. Raises AddressInUse.
    """

    async def get_state(_: web.Request) -> web.Response:
        return web.json_response(text=state().model_dump_json(by_alias=True))

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({})

    async def readyz(_: web.Request) -> web.Response:
        reason = unready()
        return web.json_response({"fault": reason or None}, status=503 if reason else 200)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    application = web.Application()
    paths = {"/state": get_state, "/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
    application.add_routes([web.get(path, handler) for path, handler in paths.items()])
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, *_listen(address)).start()
        except OSError as error:
            raise AddressInUse(f"cannot listen at {address}: {error.strerror}; set --state-listen") from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _listen(address: str) -> tuple[str | None, int]:
    host, port = parse_host_port(address, first_port=0) or ("", 0)
    # All addresses of the machine, which may have no IPv6.
    return (None if host == "[::]" else host.strip("[]")), port
