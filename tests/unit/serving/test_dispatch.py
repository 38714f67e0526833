"""A request finds a server that answers: real gRPC between gateway and servers, and no model behind them."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_client import AsyncTaskClient, GatewayError, Unavailable
from multitask_operator.rollout.counts import counts_of
from multitask_operator.rollout.metrics import Outcome, measure
from multitask_operator.rollout.plan import AnalysisSettings
from multitask_serving.gateway import dispatch, retry_budget
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.server import Gateway, ServerOptions, serving_gateway
from multitask_serving.triton import client as triton
from support.fake_triton import FakeTriton, running
from support.service_proxy import ServiceProxy, proxied

HOST = "127.0.0.1"


def table(**weights: int) -> RouteTable:
    backends = tuple(Backend(service=name, port=8001, weight=weight, revision=name) for name, weight in weights.items())
    tasks = (
        RoutedTask(name="urgency", type="Classification", fields=("text",), labels=("low", "high"), backends=backends),
        RoutedTask(name="reply", type="Generation", fields=("text",), backends=backends),
    )
    spec = TaskRouteSpec(namespace="team", model="desk", tasks=tasks)
    return RouteTable([TaskRoute(metadata=RouteMetadata(name="desk"), spec=spec)])


class KnownServers:
    """Service → its servers; a test changes it."""

    def __init__(self, **servers: Sequence[FakeTriton | ServiceProxy]) -> None:
        self.servers = dict(servers)

    def addresses(self, namespace: str, backend: Backend) -> Sequence[str]:
        assert namespace == "team"
        return tuple(f"{HOST}:{server.port}" for server in self.servers.get(backend.service, ()))


@asynccontextmanager
async def gateway_over(
    routes: RouteTable, **servers: Sequence[FakeTriton | ServiceProxy]
) -> AsyncIterator[tuple[Gateway, AsyncTaskClient, KnownServers]]:
    known = KnownServers(**servers)
    async with (
        serving_gateway(lambda: routes, known, f"{HOST}:0") as gateway,
        AsyncTaskClient(f"{HOST}:{gateway.port}") as client,
    ):
        await gateway.start()
        yield gateway, client, known


async def label(client: AsyncTaskClient, **how: object) -> str:
    return (await client.predict("urgency", text="x", **how)).revision


async def test_the_answer_says_which_revision_gave_it_as_the_routes_name_it() -> None:
    async with running(FakeTriton(HOST)) as (server,), gateway_over(table(r1=100), r1=[server]) as (_, client, _):
        answer = await client.predict("urgency", text="x")
        streamed = [part async for part in client.predict_stream("reply", text="x")][-1]
    assert (answer.label, answer.revision, streamed.text, streamed.revision) == ("low", "r1", "0 1 2 ", "r1")


@pytest.mark.parametrize(("revision", "device"), [("old", "cpu"), ("new", "NVIDIA L4"), (None, "")])
async def test_a_request_that_names_its_revision_is_told_what_computed_the_answer(revision, device: str) -> None:
    async with (
        running(FakeTriton(HOST), FakeTriton(HOST)) as (old, new),
        gateway_over(table(old=50, new=50), old=[old], new=[new]) as (_, client, _),
    ):
        new.device = "NVIDIA L4"
        answers = [await client.predict("urgency", text="x", revision=revision) for _ in range(3)]
        assert {answer.device for answer in answers} == {device}
        streamed = [part async for part in client.predict_stream("reply", text="x", revision=revision)]
        assert streamed[-1].text == "0 1 2 "
        assert old.requests + new.requests == 4


WAYS_TO_FAIL = ["killed", "ending", "cut during the answer"]


@pytest.mark.parametrize("way", WAYS_TO_FAIL)
async def test_a_request_to_a_server_that_goes_is_answered_by_another(way: str) -> None:
    async with (
        running(FakeTriton(HOST), FakeTriton(HOST)) as (going, staying),
        gateway_over(table(r1=100), r1=[going]) as (gateway, client, known),
    ):
        assert await label(client) == "r1"  # connected
        if way == "killed":
            await going.stop()
        going.ending = way == "ending"
        going.seconds = 30 if way.startswith("cut") else 0
        asked = asyncio.create_task(client.predict("urgency", text="x"))
        if way.startswith("cut"):
            while not going.running:  # noqa: ASYNC110 - a count, not an event
                await asyncio.sleep(0.001)
        else:
            await asyncio.sleep(0)
        known.servers["r1"] = [going, staying]
        if way.startswith("cut"):
            await going.stop()
        assert (await asked).label == "low"
        answers = await asyncio.gather(*(label(client) for _ in range(200)))
        assert answers == ["r1"] * 200
        # the one that failed is not asked again and again because it looks idle
        assert gateway.stats.snapshot()["team/desk/urgency", "r1"].errors["UNAVAILABLE"] <= 20
        assert gateway.dispatcher.retries["team/desk"] >= 1


def counted(gateway: Gateway, task: str = "urgency") -> dict[str, tuple[int, dict[str, int], int]]:
    """Revision → requests, errors and those that run, as the operator sees them."""
    rows = (row for row in gateway.stats.window_counts() if row.task == f"team/desk/{task}")
    return {row.revision: (row.requests, row.errors, row.in_flight) for row in rows}


@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize("way", WAYS_TO_FAIL)
async def test_a_request_that_another_server_answered_has_not_failed_for_any_revision(way: str, others: int) -> None:
    """``others``: servers of the new revision beside the one that goes."""
    async with (
        running(*(FakeTriton(HOST, seconds=0.001) for _ in range(2 + others))) as (going, old, *rest),
        gateway_over(table(old=50, new=50), old=[old], new=[going, *rest]) as (gateway, client, known),
    ):
        gateway.follow()
        going.ending = way == "ending"
        going.seconds = 30
        if way == "killed":
            await going.stop()
        asked = [asyncio.create_task(label(client, timeout_s=20)) for _ in range(60)]
        while way.startswith("cut") and going.requests + old.requests + sum(each.requests for each in rest) < 60:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if way.startswith("cut"):
            await going.stop()
        answers = Counter(await asyncio.gather(*asked))
        known.servers["new"] = rest
        counts = counted(gateway)
        assert {name: (answers[name], {}, 0) for name in ("old", "new")} == counts
        # what servers did is in the metrics
        assert gateway.stats.snapshot()["team/desk/urgency", "new"].errors["UNAVAILABLE"] >= 1


async def test_a_pod_that_is_killed_under_load_does_not_convict_its_revision() -> None:
    """Some eight of 60 requests are under way in it."""
    async with (
        running(*(FakeTriton(HOST) for _ in range(4))) as (going, other, *old),
        gateway_over(table(old=80, new=20), old=old, new=[going, other]) as (gateway, client, known),
    ):
        gateway.follow()
        while counted(gateway)["new"][0] < 52:
            await label(client)
        going.seconds, other.seconds = 30, 0
        known.servers["new"] = [going]
        servers = (going, other, *old)
        arrived = sum(each.requests for each in servers)
        asked = [asyncio.create_task(label(client, timeout_s=20)) for _ in range(40)]
        while sum(each.requests for each in servers) < arrived + 40:  # noqa: ASYNC110 - a count, not an event
            await asyncio.sleep(0.001)
        assert going.running > 2
        known.servers["new"] = [going, other]
        await going.stop()
        await asyncio.gather(*asked)
        rows = gateway.stats.window_counts()
        new, before = (counts_of(rows, "team/desk/urgency", name, "") for name in ("new", "old"))
        assert new.requests >= 52
        assert measure(new, before, None, AnalysisSettings()).outcome is Outcome.SUCCESSFUL


#: servers of the old and of the new revision, all of which fail → revisions that a request may count for
ALL_FAIL = [(0, 1, {"new"}), (0, 3, {"new"}), (1, 0, {"old"}), (1, 1, {"old", "new"}), (2, 3, {"old", "new"})]


@pytest.mark.parametrize(("old", "new", "revisions"), ALL_FAIL)
async def test_a_request_that_nobody_answered_counts_once_for_each_revision_that_it_was_sent_to(
    old: int, new: int, revisions: set[str]
) -> None:
    async with (
        running(*(FakeTriton(HOST) for _ in range(old + new))) as servers,
        gateway_over(table(old=50, new=50), old=servers[:old], new=servers[old:]) as (gateway, client, _),
    ):
        gateway.follow()
        for server in servers:
            server.ending = True
        for _ in range(20):
            with pytest.raises(Unavailable):
                await label(client)
        counts = counted(gateway)
        assert sum(server.requests for server in servers) >= 20
        failed = {name: requests for name, (requests, *_) in counts.items() if requests}
        assert set(failed) == revisions
        assert all(requests <= 20 for requests in failed.values())
        assert sum(failed.values()) >= 20
        assert counts == {
            name: (failed.get(name, 0), {"UNAVAILABLE": n} if (n := failed.get(name)) else {}, 0)
            for name in ("old", "new")
        }


async def test_a_caller_that_gives_up_while_another_server_is_asked_blames_that_one_alone() -> None:
    async with (
        running(FakeTriton(HOST), FakeTriton(HOST, seconds=30)) as (going, slow),
        gateway_over(table(old=0, new=100), new=[going], old=[slow]) as (gateway, client, known),
    ):
        gateway.follow()
        going.ending = True
        known.servers["new"] = [going, slow]
        with pytest.raises(GatewayError):
            while not slow.requests:
                await client.predict("urgency", text="x", timeout_s=0.5)
        while counted(gateway)["new"][2]:  # noqa: ASYNC110 - a count, not an event
            await asyncio.sleep(0.01)
        requests, errors, _ = counted(gateway)["new"]
        assert sum(errors.values()) == requests == 1


async def test_a_server_that_breaks_right_after_its_answer_has_answered() -> None:
    async with (
        running(FakeTriton(HOST)) as (server,),
        gateway_over(table(r1=100), r1=[server]) as (gateway, client, _),
    ):
        server.breaking = True
        answers = [await label(client) for _ in range(5)]
        texts = [[part async for part in client.predict_stream("reply", text="x")][-1].text for _ in range(5)]
        assert (answers, texts) == (["r1"] * 5, ["0 1 2 "] * 5)
        assert server.requests == 10
        assert not any(counts.errors.total() for counts in gateway.stats.snapshot().values())


def quick(options: Sequence[tuple[str, object]]) -> list[tuple[str, object]]:
    """The same, but a connection is asked after a second whether it lives, and has a second to answer."""
    return [(name, 1_000 if "keepalive" in name or "ping_timeout" in name else value) for name, value in options]


async def test_a_node_that_is_gone_without_a_word_is_noticed_while_calls_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton, "_CHANNEL_OPTIONS", quick(triton._CHANNEL_OPTIONS))
    async with (
        running(FakeTriton(HOST), FakeTriton(HOST)) as (behind, staying),
        proxied(behind.port) as node,
        gateway_over(table(r1=100), r1=[node]) as (_, client, known),
    ):
        assert await label(client) == "r1"  # connected
        node.flows.clear()
        asked = asyncio.create_task(client.predict("urgency", text="x", timeout_s=50))
        await asyncio.sleep(0.1)
        known.servers["r1"] = [node, staying]
        async with asyncio.timeout(15):
            assert (await asked).label == "low"
        node.flows.set()


async def test_a_node_that_does_not_let_anybody_connect_costs_seconds_not_the_deadline() -> None:
    with socket.create_server((HOST, 0)) as silent:  # the kernel accepts, nobody answers
        silent.listen(1)
        async with running(FakeTriton(HOST)) as (staying,):
            gone = FakeTriton(HOST)
            gone.port = silent.getsockname()[1]
            async with gateway_over(table(r1=100), r1=[gone]) as (_, client, known):
                asked = asyncio.create_task(client.predict("urgency", text="x", timeout_s=50))
                await asyncio.sleep(0.1)
                known.servers["r1"] = [gone, staying]
                async with asyncio.timeout(12):
                    assert (await asked).label == "low"


async def test_one_revision_answers_all_requests_of_a_key() -> None:
    async with (
        running(FakeTriton(HOST), FakeTriton(HOST)) as (one, two),
        gateway_over(table(old=50, new=50), old=[one], new=[two]) as (_, client, _),
    ):
        by_key = {
            key: {await label(client, routing_key=key) for _ in range(5)} for key in (f"user-{n}" for n in range(20))
        }
    assert all(len(revisions) == 1 for revisions in by_key.values())
    assert {revision for revisions in by_key.values() for revision in revisions} == {"old", "new"}


async def test_a_stream_that_has_begun_is_not_sent_again() -> None:
    async with (
        running(FakeTriton(HOST, seconds=0.05, pieces=1000), FakeTriton(HOST)) as (going, staying),
        gateway_over(table(r1=100), r1=[going]) as (_, client, known),
    ):
        parts = client.predict_stream("reply", text="x")
        assert await anext(parts) == "0 "
        known.servers["r1"] = [going, staying]
        await going.stop()
        with pytest.raises(Unavailable):
            _ = [part async for part in parts]
        assert staying.requests == 0


async def test_a_revision_that_cannot_answer_leaves_its_share_to_the_others_but_not_those_who_pin_it() -> None:
    async with (
        running(FakeTriton(HOST), FakeTriton(HOST)) as (dead, alive),
        gateway_over(table(old=50, new=50), old=[alive], new=[dead]) as (_, client, _),
    ):
        await dead.stop()
        assert Counter(await asyncio.gather(*(label(client) for _ in range(50)))) == {"old": 50}
        with pytest.raises(Unavailable):
            await label(client, revision="new")


async def test_when_everything_fails_the_servers_are_not_asked_three_times_as_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry_budget, "CAPACITY", 10.0)
    monkeypatch.setattr(retry_budget.RetryBudget.__init__, "__defaults__", (0.2, 0.0, 10.0, lambda: 0.0))
    async with (
        running(*(FakeTriton(HOST) for _ in range(3))) as servers,
        gateway_over(table(r1=100), r1=servers) as (gateway, client, _),
    ):
        for server in servers:
            server.ending = True
        for _ in range(100):
            with pytest.raises(Unavailable):
                await label(client)
        assert sum(server.requests for server in servers) <= 100 + 10 + 0.2 * 100
        assert gateway.dispatcher.retries_refused["team/desk"] > 50
        assert dispatch.ATTEMPTS == 3


async def test_a_connection_is_kept_until_its_last_call_has_ended() -> None:
    async with (
        running(FakeTriton(HOST, seconds=0.02, pieces=20), FakeTriton(HOST)) as (leaving, staying),
        gateway_over(table(r1=100), r1=[leaving]) as (gateway, client, known),
    ):
        parts = client.predict_stream("reply", text="x")
        assert await anext(parts) == "0 "
        known.servers["r1"] = [staying]
        gateway.follow()
        assert [part async for part in parts][-1].text == "".join(f"{n} " for n in range(20))
        assert await label(client) == "r1"
        assert (leaving.requests, staying.requests) == (1, 1)


async def test_calls_that_run_end_when_the_gateway_drains_and_new_ones_go_elsewhere() -> None:
    routes = table(r1=100)
    async with running(FakeTriton(HOST, seconds=0.05, pieces=20)) as (server,):
        known = KnownServers(r1=[server])
        async with serving_gateway(lambda: routes, known, f"{HOST}:0") as gateway:
            await gateway.start()
            async with AsyncTaskClient(f"{HOST}:{gateway.port}") as client:
                parts = client.predict_stream("reply", text="x")
                assert await anext(parts) == "0 "
                draining = asyncio.create_task(gateway.drain())
                assert [part async for part in parts][-1].text == "".join(f"{n} " for n in range(20))
                await draining
                with pytest.raises(Unavailable):
                    await label(client)


@asynccontextmanager
async def constant_load(port: int, clients: int = 16) -> AsyncIterator[Counter[str]]:
    """Clients that ask one question after the other, labels and texts; how each ended."""
    ended: Counter[str] = Counter()
    stop = asyncio.Event()

    async def ask(number: int) -> None:
        async with AsyncTaskClient(f"{HOST}:{port}") as client:
            while not stop.is_set():
                try:
                    if number % 4:
                        await client.predict("urgency", text="x")
                    else:
                        _ = [part async for part in client.predict_stream("reply", text="x")]
                    ended["OK"] += 1
                except GatewayError as error:
                    ended[repr(error)] += 1

    tasks = [asyncio.create_task(ask(number)) for number in range(clients)]
    try:
        yield ended
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def more(ended: Counter[str], answers: int = 200) -> None:
    """Return after so many more answers."""
    before = ended["OK"]
    async with asyncio.timeout(60):
        while ended["OK"] < before + answers:  # noqa: ASYNC110 - a count, not an event
            await asyncio.sleep(0.01)


async def test_no_call_fails_while_gateways_come_and_go_behind_a_service() -> None:
    routes, options = table(r1=100), ServerOptions(max_connection_age_s=0.5, drain_s=10)
    async with running(FakeTriton(HOST, seconds=0.002)) as (server,), AsyncExitStack() as stack:

        async def started() -> Gateway:
            endpoints = KnownServers(r1=[server])
            opened = serving_gateway(lambda: routes, endpoints, f"{HOST}:0", options=options)
            gateway = await stack.enter_async_context(opened)
            await gateway.start()
            return gateway

        gateways = [await started()]
        async with proxied(gateways[0].port) as service, constant_load(service.port) as ended:
            for _ in range(3):
                await more(ended)
                gateways.append(await started())
                service.ready = [gateways[-1].port]
                await gateways[-2].drain()
            await more(ended)
        assert set(ended) == {"OK"}, ended
        assert all(gateway.stats.snapshot()["team/desk/urgency", "r1"].requests > 50 for gateway in gateways)


async def test_a_new_gateway_gets_its_share_of_clients_that_stay_connected() -> None:
    routes = table(r1=100)
    options, known = ServerOptions(max_connection_age_s=0.5, drain_s=10), KnownServers()
    async with (
        running(FakeTriton(HOST)) as (server,),
        serving_gateway(lambda: routes, known, f"{HOST}:0", options=options) as first,
        serving_gateway(lambda: routes, known, f"{HOST}:0", options=options) as second,
    ):
        known.servers["r1"] = [server]
        await first.start()
        await second.start()
        async with proxied(first.port) as service, constant_load(service.port) as ended:
            await more(ended)
            assert second.stats.snapshot() == {}
            service.ready.append(second.port)
            async with asyncio.timeout(60):
                while sum(each.requests for each in second.stats.snapshot().values()) < 100:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert set(ended) == {"OK"}, ended
