"""Asks the gateways what they have counted: ``GET /state`` of every pod, in bounded time and not too often."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Self

import aiohttp
from pydantic import ValidationError

from multitask_api.serving_io.gateway_state import STATE_PORT, GatewayState
from multitask_api.types import JsonObject
from multitask_kubernetes.errors import ClusterError
from multitask_operator.cluster.gateway_pods import GatewayPods, names_of
from multitask_operator.cluster.observe import Reader
from multitask_operator.reconciler.state.accessors import parse_time, true_condition
from multitask_operator.reconciler.state.cluster_state import ClusterState

#: Of one gateway, from the connection to the last byte. One that hangs must not hold up the others, nor a reconcile.
TIMEOUT = aiohttp.ClientTimeout(total=3.0, sock_connect=1.0)
#: Seconds for which an answer is used again: many models are reconciled at the same time.
MAX_AGE_SECONDS = 2.0
#: Bytes of an answer: 1,000 models with 20 tasks and two revisions each stay below.
MAX_BYTES = 64 * 1024 * 1024
_CONNECTIONS = 32

States = Mapping[str, GatewayState | None]
"""Pod → what it has counted; None: it did not answer."""

logger = logging.getLogger(__name__)


class Gateways:
    """The gateways of the installation. Use it as an asynchronous context. ``watched``: their pods; None: they are
    listed each time."""

    def __init__(
        self,
        client: Reader,
        namespace: str,
        selector: str,
        watched: GatewayPods | None = None,
        *,
        port: int = STATE_PORT,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._selector = selector
        self._watched = watched
        self._port = port
        self._timeout = timeout
        self._clock = clock
        self._wall_clock = wall_clock
        self._asking = asyncio.Lock()
        self._latest: tuple[float, States | None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def existing_pods(self, acknowledged: Collection[str]) -> frozenset[str] | None:
        """The names of the pods that exist, reachable or not. None: not known. Without a namespace there are none.

        A watch may lag behind: whether one of the pods that have ``acknowledged`` a table is gone is read live.
        """
        if not self._namespace:
            return frozenset()
        if self._watched is not None:
            names = self._watched.names()
            if names is None or names.issuperset(acknowledged):
                return names
        try:
            return names_of(await self._list())
        except ClusterError as error:
            logger.warning("the gateways of namespace %s cannot be listed: %s", self._namespace, error)
            return None

    async def _list(self) -> tuple[JsonObject, ...]:
        return await self._client.list("v1", "Pod", self._namespace, self._selector)

    async def states(self) -> States | None:
        """What each gateway pod says, at most `MAX_AGE_SECONDS` old. None: the pods could not be listed.

        Without a namespace for gateways there are none.
        """
        if not self._namespace:
            return {}
        async with self._asking:
            if self._latest is None or self._clock() - self._latest[0] > MAX_AGE_SECONDS:
                states = await self._ask_all()
                self._latest = (self._clock(), states)
            return self._latest[1]

    async def _ask_all(self) -> States | None:
        try:
            pods = await self._list()
        except ClusterError as error:
            logger.warning("the gateways of namespace %s cannot be listed: %s", self._namespace, error)
            return None
        running = [pod for pod in pods if _is_running(pod, self._wall_clock())]
        states = await asyncio.gather(*(self._ask(pod) for pod in running))
        return {
            pod["metadata"]["name"]: state
            for pod, state in zip(running, states, strict=True)
            if state is not None or _is_ready(pod)
        }

    async def _ask(self, pod: JsonObject) -> GatewayState | None:
        """None if it does not answer, or if another program does."""
        if self._session is None:
            raise RuntimeError("Gateways is used outside of its context")
        name, address = pod["metadata"]["name"], pod["status"]["podIP"]
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{self._port}/state", allow_redirects=False) as answer:
                answer.raise_for_status()
                body = await answer.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES + 1)):
                    body += more
            if len(body) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            state = GatewayState.model_validate_json(body)
        except (aiohttp.ClientError, TimeoutError, ValidationError, ValueError) as error:
            logger.info("gateway %s does not tell its state: %s", name, error)
            return None
        if state.gateway != name:
            logger.info("gateway %s: %s answers under its address", name, state.gateway)
            return None
        return state


def needs_gateways(cluster: ClusterState) -> bool:
    """Whether a decision about the model depends on what the gateways say: traffic moves, or has just moved.

    Of the many models at rest none causes a request.
    """
    route = cluster.task_route
    if route is None:
        return False
    phase = ((route.get("status") or {}).get("rollout") or {}).get("phase")
    return phase in ("Verifying", "Progressing", "Paused") or len(_with_servers(cluster)) > 1


def _with_servers(cluster: ClusterState) -> list[JsonObject]:
    """Revisions without traffic keep a Deployment without pods."""
    return [item for item in cluster.deployments if item.get("spec", {}).get("replicas") != 0]


def _is_running(pod: JsonObject, now: float) -> bool:
    """Whether a pod may still send requests to servers: one that should have ended by now does not count, its node is
    lost."""
    status, ends = pod.get("status", {}), pod["metadata"].get("deletionTimestamp")
    if ends is not None and parse_time(ends) <= now:
        return False
    return status.get("phase") == "Running" and bool(status.get("podIP"))


def _is_ready(pod: JsonObject) -> bool:
    """Whether it gets requests. One that is not ready and does not answer either has none, and is in nobody's way."""
    return true_condition(pod, "Ready") is not None
