"""The running operator: watches fill the queue, workers reconcile its keys, /healthz answers, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_kubernetes.hooks import nothing
from multitask_kubernetes.streams import StreamClient
from multitask_operator import health
from multitask_operator.cluster.cache import Cache
from multitask_operator.cluster.gateway_pods import GatewayPods
from multitask_operator.cluster.gateways import Gateways
from multitask_operator.controller import Controller, NamespacedName, Reconcile
from multitask_operator.metrics import Metrics
from multitask_operator.queue import Queue
from multitask_operator.settings import Settings
from multitask_operator.watches import Watches

#: One key may occupy a worker for this long.
RECONCILE_TIMEOUT_SECONDS = 120.0

#: After the stop, reconciles that run may take this long.
GRACE_SECONDS = 20.0

logger = logging.getLogger(__name__)


class Operator:
    """One run of the program: ``run`` ends when ``stop`` was called. ``after_write``: see `Client`."""

    def __init__(
        self,
        settings: Settings,
        reconcile: Reconcile,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        after_write: Callable[[], None] = nothing,
    ) -> None:
        self._settings = settings
        self._reconcile = reconcile
        self._after_write = after_write
        self._kubeconfig = kubeconfig
        self._context = context
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End `run`: no new reconcile begins, and those that run have `GRACE_SECONDS`."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stopped. Raises ConnectionConfigError and CannotListen."""
        settings, cache = self._settings, Cache(self._settings.namespaces)
        configuration = await connect(self._kubeconfig, self._context)
        metrics = Metrics(cache)
        lists = await connect(self._kubeconfig, self._context)
        pods = GatewayPods(settings.gateway_namespace, settings.gateway_selector)
        async with (
            Client(configuration, after_write=self._after_write, observer=cache, count=metrics.requested) as client,
            # its lists are of pods that the cache does not keep
            Client(lists, count=metrics.requested, connections=2) as lister,
            Gateways(lister, settings.gateway_namespace, settings.gateway_selector, pods) as gateways,
        ):
            controller = Controller(client, settings, self._reconcile, cache, gateways)
            queue: Queue[NamespacedName] = Queue(
                controller.reconcile,
                workers=settings.workers,
                limit=RECONCILE_TIMEOUT_SECONDS,
                on_end=metrics.reconciled,
            )
            metrics.follow(queue.schedule)
            async with health.served(
                queue,
                settings.health_address,
                settings.health_port,
                settings.stale_seconds,
                lambda: "; ".join((*cache.faults(), *pods.faults(), *controller.faults())) or None,
                metrics.registry,
            ) as port:
                logger.info("watching %s; health on port %d", ", ".join(settings.namespaces) or "all namespaces", port)
                await self._work(cache, pods, queue, metrics)
        logger.info("ended")

    async def _work(self, cache: Cache, pods: GatewayPods, queue: Queue[NamespacedName], metrics: Metrics) -> None:
        watching = asyncio.create_task(self._watch(cache, pods, queue, metrics))
        reconciling = asyncio.create_task(_reconcile(cache, queue))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([watching, reconciling, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            logger.info("ending")
            reconciling.cancel()
            await queue.finish(GRACE_SECONDS)
            for task in (watching, stopping):
                task.cancel()
            ended = await asyncio.gather(watching, reconciling, stopping, return_exceptions=True)
        for each in ended:
            if isinstance(each, Exception):
                raise each

    async def _watch(self, cache: Cache, pods: GatewayPods, queue: Queue[NamespacedName], metrics: Metrics) -> None:
        configuration, watches = await connect(self._kubeconfig, self._context), Watches(cache, queue.add)
        async with (
            StreamClient(configuration, connections=0, count=metrics.requested) as client,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(cache.run(client, watches.changed))
            tasks.create_task(pods.run(client, watches.gateway_gone))


async def _reconcile(cache: Cache, queue: Queue[NamespacedName]) -> None:
    """Nothing is decided before everything has been listed: what a watch has not shown yet would look missing."""
    await cache.settled()
    await queue.run()
