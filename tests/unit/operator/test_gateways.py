"""The operator asks the gateways: which count, what an answer may be, and how long it may take."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from multitask_api.serving_io.gateway_state import GatewayState, RevisionCounts
from multitask_kubernetes.errors import Forbidden, Request, Unavailable
from multitask_operator.cluster.gateway_pods import GatewayPods
from multitask_operator.cluster.gateways import MAX_AGE_SECONDS, Gateways, needs_gateways
from multitask_operator.reconciler.state.cluster_state import ClusterState

NOW = 1_790_000_000.0
STATE = GatewayState(
    gateway="gateway-a",
    started=NOW,
    counts=(RevisionCounts(task="team/desk/urgency", revision="one", window="one/0", requests=3),),
)


def pod(
    name: str, *, ip: str | None = "127.0.0.1", phase: str = "Running", ready: bool = True, ends: str | None = None
):
    """A pod as the API server gives it."""
    status: dict[str, Any] = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    metadata = {"name": name, "namespace": "system"} | ({"deletionTimestamp": ends} if ends else {})
    return {"metadata": metadata, "status": status | ({"podIP": ip} if ip else {})}


class Pods:
    """Answers `list`; counts how often it was asked."""

    def __init__(self, *pods: dict[str, Any], error: Exception | None = None) -> None:
        self.pods, self.error, self.lists = pods, error, []

    async def list(self, api_version, kind, namespace=None, labels=None, fields=None):
        self.lists.append((api_version, kind, namespace, labels))
        if self.error is not None:
            raise self.error
        return self.pods

    async def get(self, *_args, **_options):
        raise AssertionError("nothing is read one by one")


@asynccontextmanager
async def asking(pods: Pods, body: Any, *, status: int = 200, delay: float = 0.0) -> AsyncIterator[Gateways]:
    """One server on this machine that answers for all pods; a clock that the test moves."""

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(delay)
        text = body if isinstance(body, str) else json.dumps(body.to_json())
        return web.Response(text=text, status=status, content_type="application/json")

    app = web.Application()
    app.router.add_get("/state", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Gateways(
            pods,
            "system",
            "app.kubernetes.io/component=gateway",
            port=port,
            timeout=aiohttp.ClientTimeout(total=0.3),
            clock=lambda: asking.now,  # type: ignore[attr-defined]
            wall_clock=lambda: NOW,
        ) as gateways:
            yield gateways
    finally:
        await runner.cleanup()


asking.now = 0.0  # type: ignore[attr-defined]


async def test_every_gateway_is_asked_for_what_it_has_counted():
    pods = Pods(pod("gateway-a"))
    async with asking(pods, STATE) as gateways:
        assert await gateways.states() == {"gateway-a": STATE}
    assert pods.lists == [("v1", "Pod", "system", "app.kubernetes.io/component=gateway")]


async def test_fields_of_a_newer_gateway_are_passed_over():
    newer = STATE.to_json() | {"colour": "blue"}
    newer["counts"][0]["queued"] = 7
    async with asking(Pods(pod("gateway-a")), json.dumps(newer)) as gateways:
        assert await gateways.states() == {"gateway-a": STATE}


#: sentence, the pod, whether it stands among the gateways although it does not answer
SILENT = [
    ("a ready one is in the way", pod("gateway-a", ip="127.0.0.2"), True),
    ("one that ends soon still has requests", pod("gateway-a", ip="127.0.0.2", ends="2100-01-01T00:00:00Z"), True),
    ("one that should have ended is lost with its node", pod("gateway-a", ends="2020-01-01T00:00:00Z"), False),
    ("one that is not ready gets no requests", pod("gateway-a", ip="127.0.0.2", ready=False), False),
    ("one that has not started has none yet", pod("gateway-a", ip=None, phase="Pending"), False),
    ("one that has ended has none any more", pod("gateway-a", phase="Succeeded"), False),
]


@pytest.mark.parametrize(("item", "counts"), [row[1:] for row in SILENT], ids=[row[0] for row in SILENT])
async def test_a_gateway_that_does_not_answer(item, counts):
    async with asking(Pods(item), STATE) as gateways:
        assert await gateways.states() == ({"gateway-a": None} if counts else {})


@pytest.mark.parametrize(
    ("body", "status"),
    [("no JSON", 200), ("{}", 200), ('{"gateway": "gateway-a", "started": "NaN"}', 200), (STATE, 503), ("", 404),
     (STATE.model_copy(update={"gateway": "somebody-else"}), 200)],
)  # fmt: skip
async def test_an_answer_that_cannot_be_used_is_none(body, status):
    async with asking(Pods(pod("gateway-a")), body, status=status) as gateways:
        assert await gateways.states() == {"gateway-a": None}


async def test_one_that_hangs_holds_nobody_up_for_long():
    began = time.monotonic()
    async with asking(Pods(*(pod(f"gateway-{n}") for n in range(8))), STATE, delay=60) as gateways:
        states = await gateways.states()
        assert states == {f"gateway-{n}": None for n in range(8)}
        assert time.monotonic() - began < 5


async def test_if_the_pods_cannot_be_listed_nothing_is_known():
    error = Unavailable(Request("list", "pods", "system", None), "no connection")
    async with asking(Pods(error=error), STATE) as gateways:
        assert await gateways.states() is None


async def test_without_gateways_there_are_none():
    async with Gateways(Pods(pod("gateway-a")), "", "app=gateway") as gateways:
        assert await gateways.states() == {}


async def test_many_models_at_a_time_ask_once():
    pods = Pods(pod("gateway-a"))
    async with asking(pods, STATE) as gateways:
        answers = await asyncio.gather(*(gateways.states() for _ in range(50)))
        assert answers == [{"gateway-a": STATE}] * 50
        assert len(pods.lists) == 1
        asking.now += MAX_AGE_SECONDS + 0.1  # type: ignore[attr-defined]
        await gateways.states()
        assert len(pods.lists) == 2


# -- pods that exist ---------------------------------------------------------------------------------------------------


class Watching:
    """An API server whose watch shows what it is told, after one list of ``pods``."""

    def __init__(self, *pods: dict[str, Any], error: Exception | None = None) -> None:
        self.pods, self.error = pods, error
        self.shows: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def pages(self, *_args, metadata_only):
        if self.error is not None:
            raise self.error
        yield [with_identity(each) for each in self.pods], "1"

    async def watch(self, *_args, metadata_only):
        while True:
            yield await self.shows.get()


def with_identity(item: dict[str, Any], version: str = "1") -> dict[str, Any]:
    metadata = {"uid": item["metadata"]["name"], "resourceVersion": version} | item["metadata"]
    return {"apiVersion": "v1", "kind": "Pod", **item, "metadata": metadata}


def shown(type_: str, item: dict[str, Any], version: str = "2") -> dict[str, Any]:
    return {"type": type_, "object": with_identity(item, version)}


@asynccontextmanager
async def watching(server: Watching, namespace: str = "system") -> AsyncIterator[tuple[GatewayPods, list[str]]]:
    """The watch at work; what was told to be gone."""
    pods, gone = GatewayPods(namespace, "app=gateway"), []
    client: Any = server
    task = asyncio.create_task(pods.run(client, lambda: gone.append("gone")))
    await asyncio.sleep(0.05)
    try:
        yield pods, gone
    finally:
        task.cancel()


#: what the watch shows of the second pod → the pods that exist, and whether one is gone
CHANGES = {
    "it is deleted": (shown("DELETED", pod("b")), {"a"}, True),
    "it was evicted": (shown("MODIFIED", pod("b", phase="Failed")), {"a"}, True),
    "it has ended": (shown("MODIFIED", pod("b", phase="Succeeded")), {"a"}, True),
    "it is not ready": (shown("MODIFIED", pod("b", ready=False)), {"a", "b"}, False),
    "its node is lost": (shown("MODIFIED", pod("b", phase="Unknown")), {"a", "b"}, False),
    "it ends": (shown("MODIFIED", pod("b", ends="2020-01-01T00:00:00Z")), {"a", "b"}, False),
    "another one starts": (shown("ADDED", pod("c", ip=None, phase="Pending")), {"a", "b", "c"}, False),
}


@pytest.mark.parametrize("sentence", CHANGES)
async def test_a_pod_is_gone_once_it_has_ended(sentence):
    event, expected, is_gone = CHANGES[sentence]
    server = Watching(pod("a"), pod("b"))
    async with watching(server) as (pods, gone):
        assert (pods.names(), gone) == ({"a", "b"}, [])
        server.shows.put_nowait(event)
        await asyncio.sleep(0.05)
        assert pods.names() == expected
        assert bool(gone) == is_gone


async def test_pods_that_may_not_be_watched_are_not_known():
    error = Forbidden(Request("list", "pods", "system", None), 403, "Forbidden", "no")
    async with watching(Watching(error=error)) as (pods, _):
        assert pods.names() is None
        assert "list pods" in " ".join(pods.faults())
        listed = Pods(pod("a"))
        assert await Gateways(listed, "system", "app=gateway", pods).existing_pods(["a"]) is None
        assert listed.lists == []


async def test_that_a_pod_is_gone_is_read_live_because_a_watch_may_lag():
    async with watching(Watching(pod("a"))) as (watched, _):
        listed = Pods(pod("a"), pod("b"), pod("ended", phase="Failed"))
        gateways = Gateways(listed, "system", "app=gateway", watched)
        assert await gateways.existing_pods(["a"]) == {"a"}
        assert listed.lists == []
        assert await gateways.existing_pods(["a", "b"]) == {"a", "b"}
        assert len(listed.lists) == 1


async def test_pods_that_cannot_be_listed_are_not_known():
    error = Unavailable(Request("list", "pods", "system", None), "no connection")
    assert await Gateways(Pods(error=error), "system", "app=gateway").existing_pods(["a"]) is None


async def test_without_a_namespace_no_pod_exists_and_nothing_is_watched():
    async with watching(Watching(pod("a")), namespace="") as (watched, gone):
        assert await Gateways(Pods(pod("a")), "", "app=gateway", watched).existing_pods(["a"]) == frozenset()
        assert (gone, watched.faults()) == ([], ())


def rolling(phase: str | None, deployments: int) -> ClusterState:
    """A model with a table, and so many revisions with servers."""
    route = {"metadata": {"name": "desk"}, "status": {"rollout": {"phase": phase}} if phase else {}}
    return ClusterState(
        "team", "desk", {"metadata": {"name": "desk"}}, task_routes=(route,), deployments=({},) * deployments
    )


@pytest.mark.parametrize(
    ("phase", "deployments", "asked"),
    [("Progressing", 2, True), ("Verifying", 1, True), ("Paused", 2, True), ("Successful", 2, True),
     ("Successful", 1, False), ("Failed", 1, False), (None, 1, False)],
)  # fmt: skip
def test_gateways_are_asked_while_traffic_moves(phase, deployments, asked):
    assert needs_gateways(rolling(phase, deployments)) == asked


def test_a_model_without_a_table_asks_no_gateway():
    assert not needs_gateways(ClusterState("team", "desk", {"metadata": {"name": "desk"}}))
