"""The running operator: watches fill the queue, workers reconcile its keys, /healthz answers, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from multitask_api.resource.model import API_VERSION
from multitask_operator import health
from multitask_operator.cluster.client import Client, nothing
from multitask_operator.cluster.connection import Login, connect, login
from multitask_operator.cluster.errors import ClusterError, NotFound
from multitask_operator.controller import Controller, NamespacedName, Reconcile
from multitask_operator.queue import Backoff, Queue
from multitask_operator.settings import Settings
from multitask_operator.watches import watch

#: One key may occupy a worker for this long.
RECONCILE_TIMEOUT_SECONDS = 120.0

#: After the stop, reconciles that run may take this long, and the watches this long to close.
GRACE_SECONDS = 20.0
CLOSE_SECONDS = 5.0

#: Between two attempts to start the watches.
WATCH_BACKOFF = Backoff(first=1.0, longest=60.0)

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
        self._watching = threading.Event()
        self._fault = "the watches have not begun"

    def stop(self) -> None:
        """End `run`: no new reconcile begins, and those that run have `GRACE_SECONDS`."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stopped. Raises ConnectionConfigError and CannotListen."""
        settings = self._settings
        configuration = await connect(self._kubeconfig, self._context)
        async with Client(configuration, after_write=self._after_write) as client:
            controller = Controller(client, settings, self._reconcile)
            queue: Queue[NamespacedName] = Queue(
                controller.reconcile, workers=settings.workers, limit=RECONCILE_TIMEOUT_SECONDS
            )
            async with health.served(
                queue,
                settings.health_address,
                settings.health_port,
                settings.stale_seconds,
                lambda: None if self._watching.is_set() else self._fault,
            ) as port:
                logger.info("watching %s; health on port %d", ", ".join(settings.namespaces) or "all namespaces", port)
                await self._work(client, queue)
        logger.info("ended")

    async def _work(self, client: Client, queue: Queue[NamespacedName]) -> None:
        stop: Future[None] = Future()
        watching = asyncio.create_task(self._keep_watching(client, queue, stop))
        reconciling = asyncio.create_task(queue.run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([watching, reconciling, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            logger.info("ending")
            stop.set_result(None)
            reconciling.cancel()
            await queue.finish(GRACE_SECONDS)
            await asyncio.wait([watching], timeout=CLOSE_SECONDS)
            for task in (watching, stopping):
                task.cancel()
            ended = await asyncio.gather(watching, reconciling, stopping, return_exceptions=True)
        for each in ended:
            if isinstance(each, Exception):
                raise each

    async def _keep_watching(self, client: Client, queue: Queue[NamespacedName], stop: Future[None]) -> None:
        """Watch as long as the program runs; a watch that fails (no CRD, no permission) is started again."""
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            began = loop.time()
            try:
                for namespace in self._settings.namespaces or (None,):
                    await client.probe(API_VERSION, "MultiTaskModel", namespace)
                await _in_thread(lambda: self._watch(loop, queue, stop))
                return
            except NotFound:
                fault = "the cluster does not know the kind MultiTaskModel: install the CRDs"
            except ClusterError as error:
                fault = str(error)
            except Exception as error:  # noqa: BLE001 - kopf's errors have no public common root
                fault = f"a watch failed: {error!r}"
            failures = 1 if loop.time() - began > WATCH_BACKOFF.longest else failures + 1
            wait = WATCH_BACKOFF.wait(failures)
            self._fault = fault
            self._watching.clear()
            logger.error("%s; trying again in %g s", fault, wait)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    def _watch(self, loop: asyncio.AbstractEventLoop, queue: Queue[NamespacedName], stop: Future[None]) -> None:
        async def log_in() -> Login:
            return await login(await connect(self._kubeconfig, self._context))

        def enqueue(key: NamespacedName, delay: float) -> None:
            loop.call_soon_threadsafe(queue.add, key, delay)

        watch(enqueue, log_in, self._settings.namespaces, stop, self._watching)


async def _in_thread(work: Callable[[], None]) -> None:
    """As asyncio.to_thread, in a thread that does not keep the process from ending."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="watches", daemon=True).start()
    await asyncio.shield(asyncio.wrap_future(done))
