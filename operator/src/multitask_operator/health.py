"""``GET /healthz``: whether every resource is reconciled in time. A failed request to the API server does not count:
while that is down, a restart of the operator would not help. ``GET /readyz``: whether the operator sees all it needs.
``GET /metrics``: see `multitask_operator.metrics`."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from multitask_api.errors import UserError
from multitask_operator.queue import Queue


class CannotListen(UserError):
    """The address for ``/healthz`` is taken, or is not this machine's."""


def report(queue: Queue[Any]) -> dict[str, Any]:
    """The body of ``/healthz``; the quantiles are of the latest thousand reconciles."""
    return {
        "oldestSeconds": round(queue.schedule.oldest(), 3),
        "waiting": len(queue.schedule),
        "running": queue.schedule.running(),
        "served": queue.reconciled,
        "failed": queue.failed,
        "servingSeconds": _quantiles(queue.seconds),
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=20)
    return {"median": round(cuts[9], 4), "p95": round(cuts[18], 4)}


@contextlib.asynccontextmanager
async def served(
    queue: Queue[Any],
    address: str,
    port: int,
    stale_seconds: float,
    fault: Callable[[], str | None],
    registry: CollectorRegistry,
) -> AsyncIterator[int]:
    """Answer on ``address`` (empty: all) and ``port`` (0: any free one); the context gives the port.

    healthz: 200 while no key has been due for longer than ``stale_seconds``, else 503. readyz: 200 while ``fault()``,
    the reason why not everything is watched, is None. metrics: what ``registry`` has. Raises CannotListen.
    """

    async def healthz(_: web.Request) -> web.Response:
        body = report(queue)
        return web.json_response(body, status=200 if body["oldestSeconds"] <= stale_seconds else 503)

    async def readyz(_: web.Request) -> web.Response:
        reason = fault()
        return web.json_response({"fault": reason}, status=200 if reason is None else 503)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address or None, port).start()
        except OSError as error:
            where = f"{address or 'all addresses'}, port {port}"
            raise CannotListen(f"cannot listen on {where}: {error.strerror}; set MULTITASK_HEALTH_PORT") from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
