"""The gateway's program against a real API server, before servers that answer like Triton: it follows TaskRoutes and
EndpointSlices, hot and whole, and says so."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane
from multitask_api.types import JsonDict
from multitask_client import AsyncTaskClient, GatewayError
from support.cluster.gateway_process import (
    HOST,
    ROUTES,
    GatewayProcess,
    acknowledged,
    delete_route,
    put_pods,
    put_route,
    route,
    run_gateway,
    soon,
    task,
)
from support.fake_triton import FakeTriton, running

pytestmark = pytest.mark.integration


@pytest.fixture
async def pods() -> AsyncIterator[tuple[FakeTriton, ...]]:
    """Four servers."""
    async with running(*(FakeTriton(HOST, seconds=0.002) for _ in range(4))) as servers:
        yield servers


async def revisions(client: AsyncTaskClient, name: str = "urgency", asked: int = 40, **how: str) -> dict[str, int]:
    answers = await asyncio.gather(*(client.predict(name, text="x", **how) for _ in range(asked)))
    return dict(Counter(answer.revision for answer in answers))


@asynccontextmanager
async def constant_load(gateway: GatewayProcess, name: str, clients: int = 8) -> AsyncIterator[Counter[str]]:
    """Clients that ask one question after the other; which revision answered, or which error came."""
    ended: Counter[str] = Counter()
    stop = asyncio.Event()

    async def ask() -> None:
        async with AsyncTaskClient(gateway.address) as client:
            while not stop.is_set():
                try:
                    ended[(await client.predict(name, text="x")).revision] += 1
                except GatewayError as error:
                    ended[f"error: {error}"] += 1

    tasks = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield ended
    finally:
        stop.set()
        await asyncio.gather(*tasks)


def servers(gateway: GatewayProcess, revision: str) -> int:
    """How many of a revision the gateway would ask; -1: it does not know the revision."""
    found = [value for labels, value in gateway.samples("servers") if labels["revision"] == revision]
    return int(found[0]) if found else -1


def errors(ended: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in ended.items() if name.startswith("error")}


async def test_a_table_and_its_servers_are_followed_and_acknowledged_once(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    full = f"{namespace}/desk/urgency"
    with run_gateway(cluster.admin, tmp_path, namespace) as gateway:
        async with AsyncTaskClient(gateway.address) as client:
            put_pods(rest, namespace, "old", pods[:2])
            generation = put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))
            await soon("it is followed", lambda: gateway.follows(namespace) == generation)
            await soon("both pods", lambda: servers(gateway, "old") == 2)
            assert await revisions(client, full) == {"old": 40}

            put_pods(rest, namespace, "new", pods[2:])
            generation = put_route(rest, namespace, route(namespace, task("urgency", {"old": 0, "new": 100})))
            await soon("the next one too", lambda: gateway.follows(namespace) == generation)
            await soon("both pods", lambda: servers(gateway, "new") == 2)
            assert await revisions(client, full) == {"new": 40}
            assert await revisions(client, full, revision="old") == {"old": 40}
            assert all(pod.requests for pod in pods)

            await soon("it says so", lambda: acknowledged(rest, namespace) == {"gateway-a": generation})
            mark = cluster.audit_mark()
            put_pods(rest, namespace, "new", pods[3:])
            await soon("a pod is gone", lambda: servers(gateway, "new") == 1)
            assert not [line for line in cluster.writes(mark) if "taskroutes" in line and namespace in line]

            delete_route(rest, namespace)
            await soon("it is gone", lambda: gateway.state().tables == ())
            with pytest.raises(GatewayError, match="no task"):
                await client.predict(full, text="x")


async def test_each_gateway_says_for_itself_what_it_follows_and_says_it_once(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    first = put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))
    with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-a"):
        await soon("the first says it", lambda: acknowledged(rest, namespace) == {"gateway-a": first})
        with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-b"):
            both = {"gateway-a": first, "gateway-b": first}
            await soon("the second says it too", lambda: acknowledged(rest, namespace) == both)
    # the container is started again, in the same pod
    mark = cluster.audit_mark()
    with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-a"):
        put_route(rest, namespace, route(namespace, task("intent", {"old": 100}), name="shop", model="shop"))
        await soon("it is at work", lambda: acknowledged(rest, namespace, "shop") == {"gateway-a": 1})
    written = [line for line in cluster.writes(mark) if f"taskroutes/status {namespace}/" in line]
    assert written == [f"patch taskroutes/status {namespace}/shop"]
    assert acknowledged(rest, namespace) == both  # the operator removes those of gateways that are gone


#: How an entry is lost: by a merge patch of the whole status, of the list, or by a restored object.
LOSSES = [{"gateways": None}, {"gateways": []}, {"gateways": [{"name": "x", "observedGeneration": 1, "time": "now"}]}]


@pytest.mark.parametrize("status", LOSSES, ids=["removed", "emptied", "replaced"])
async def test_an_entry_that_somebody_removes_is_written_again_though_no_route_changes(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, status: JsonDict
) -> None:
    generation = put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))
    with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-a"):
        await soon("it says it", lambda: acknowledged(rest, namespace) == {"gateway-a": generation})
        objects.patch_status(rest, f"{ROUTES.format(namespace)}/desk", status)
        others = {each["name"]: each["observedGeneration"] for each in status["gateways"] or ()}
        both = {"gateway-a": generation, **others}
        await soon("it says it again", lambda: acknowledged(rest, namespace) == both, seconds=10)


async def test_a_table_that_takes_no_entry_holds_up_no_other(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path
) -> None:
    names = ("alpha", "beta", "gamma")
    for name in names:
        put_route(rest, namespace, route(namespace, task(name, {"old": 100}), name=name, model=name))
    full = [{"name": f"earlier-{each}", "observedGeneration": 1, "time": "2026-01-01T00:00:00Z"} for each in range(64)]
    for name in names[:2]:
        objects.patch_status(rest, f"{ROUTES.format(namespace)}/{name}", {"gateways": full})
    with run_gateway(cluster.admin, tmp_path, namespace, name="gateway-a") as gateway:
        await soon("the third says it", lambda: acknowledged(rest, namespace, "gamma") == {"gateway-a": 1}, seconds=10)
        await soon("why is in the log", lambda: all(f"{namespace}/{each}" in gateway.log_text() for each in names[:2]))
        for name in names[:2]:
            objects.patch_status(rest, f"{ROUTES.format(namespace)}/{name}", {"gateways": full[1:]})
            await soon("there is room", lambda name=name: "gateway-a" in acknowledged(rest, namespace, name))


async def test_no_request_fails_while_servers_come_and_go_under_constant_load(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    first, second, third, fourth = pods
    put_pods(rest, namespace, "old", [first, second])
    put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))
    with run_gateway(cluster.admin, tmp_path, namespace) as gateway:
        async with constant_load(gateway, f"{namespace}/desk/urgency") as ended:

            async def more(answers: int = 100) -> None:
                before = ended.total()
                await soon("answers", lambda: ended.total() >= before + answers)

            await more()
            put_pods(rest, namespace, "old", [first, second, third])  # one more
            await soon("it is asked", lambda: third.requests > 0)
            await second.stop()  # killed, and only then noticed
            await more()
            put_pods(rest, namespace, "old", [first, third])
            first.ending = True  # after SIGTERM, on open connections
            await more()
            put_pods(rest, namespace, "old", [third])
            put_pods(rest, namespace, "new", [fourth])
            put_route(rest, namespace, route(namespace, task("urgency", {"old": 50, "new": 50})))
            await soon("the new revision is asked", lambda: fourth.requests > 0)
            put_pods(rest, namespace, "old", [])  # its weight is left, its pods are not
            await more()
            put_route(rest, namespace, route(namespace, task("urgency", {"new": 100})))
            await third.stop()
            await more()
        assert errors(ended) == {}
        assert set(ended) == {"old", "new"}


async def test_a_pod_that_is_ending_is_asked_only_if_there_is_no_other(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    leaving, staying, *_ = pods
    put_pods(rest, namespace, "old", [leaving], ready=False, serving=True, terminating=True)
    put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))
    with run_gateway(cluster.admin, tmp_path, namespace) as gateway:
        async with AsyncTaskClient(gateway.address) as client:
            assert await revisions(client, f"{namespace}/desk/urgency", asked=5) == {"old": 5}
            assert leaving.requests == 5
            put_pods(rest, namespace, "old", [leaving], ready=False, serving=False, terminating=True)
            await soon("nobody is asked", lambda: servers(gateway, "old") == 0)
            with pytest.raises(GatewayError, match="no server of task"):
                await client.predict(f"{namespace}/desk/urgency", text="x")
            put_pods(rest, namespace, "old", [staying])
            await soon("there is one again", lambda: servers(gateway, "old") == 1)
            assert await revisions(client, f"{namespace}/desk/urgency", asked=5) == {"old": 5}


async def test_an_invalid_table_keeps_its_last_good_version_and_the_others_go_on(
    own_cluster: ControlPlane, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    cluster = own_cluster.client
    with cluster.rest() as rest:
        objects.namespace(rest, "team")
        # a newer release's CRD may allow what this gateway cannot read
        crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/taskroutes.multitask.dev"
        schema = objects.get(rest, crd)
        version = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        version["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        rest.put(crd, json=schema).raise_for_status()
        put_pods(rest, "team", "old", pods[:1])
        good = put_route(rest, "team", route("team", task("urgency", {"old": 100})))
        put_route(rest, "team", route("team", task("intent", {"old": 100}), name="shop", model="shop"))
        with run_gateway(cluster.admin, tmp_path, name="gateway-b") as gateway:
            async with AsyncTaskClient(gateway.address) as client:
                await soon("it says so", lambda: acknowledged(rest, "team") == {"gateway-b": good})

                def is_invalid() -> bool:
                    return any("weights" in each.fault for each in gateway.state().tables)

                await soon(
                    "the CRD allows it",
                    lambda: put_route(rest, "team", route("team", task("urgency", {"old": 60}))) > good,
                )
                await soon("it is noticed", is_invalid)
                assert gateway.follows("team") == good
                assert acknowledged(rest, "team") == {"gateway-b": good}
                assert await revisions(client, "team/desk/urgency", asked=5) == {"old": 5}
                assert gateway.samples("invalid_route_tables") == [({}, 1.0)]

                put_pods(rest, "team", "new", pods[1:2])
                put_route(rest, "team", route("team", task("intent", {"new": 100}), name="shop", model="shop"))
                await soon("the other table goes on", lambda: pods[1].requests > 0 or _ask(gateway, "team/shop/intent"))

                future = task("urgency", {"new": 100}, cacheSeconds=30) | {"mirror": {"service": "shadow"}}
                latest = put_route(rest, "team", route("team", future, failover="region"))
                await soon("fields of a newer release are ignored", lambda: gateway.follows("team") == latest)
                assert await revisions(client, "team/desk/urgency", asked=5) == {"new": 5}
                await soon("it says so", lambda: acknowledged(rest, "team") == {"gateway-b": latest})


def _ask(gateway: GatewayProcess, name: str) -> bool:
    async def ask() -> str:
        async with AsyncTaskClient(gateway.address) as client:
            return (await client.predict(name, text="x")).revision

    try:
        return asyncio.run(ask()) == "new"
    except GatewayError:
        return False


async def test_an_api_server_that_goes_away_and_forgets_its_history_costs_nothing(
    own_cluster: ControlPlane, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    cluster = own_cluster.client
    with cluster.rest() as rest:
        objects.namespace(rest, "team")
        put_pods(rest, "team", "old", pods[:2])
        put_route(rest, "team", route("team", task("urgency", {"old": 100})))
    with run_gateway(cluster.admin, tmp_path) as gateway:
        async with constant_load(gateway, "team/desk/urgency") as ended:
            # a killed server has no watch cache: watches go on from a version that it does not know (410 Expired)
            await asyncio.to_thread(own_cluster.restart_api_server, signal.SIGKILL)
            with cluster.rest() as rest:
                put_pods(rest, "team", "new", pods[2:])
                latest = put_route(rest, "team", route("team", task("urgency", {"new": 100})))
                await soon("it follows again", lambda: gateway.follows("team") == latest, seconds=60)
            await soon("the new revision answers", lambda: ended["new"] > 20)
        assert errors(ended) == {}
        assert gateway.is_ready()


async def test_a_watch_that_has_expired_begins_anew_and_nothing_is_missed(
    own_cluster: ControlPlane, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    cluster = own_cluster.client
    with cluster.rest() as rest:
        objects.namespace(rest, "team")
        put_pods(rest, "team", "old", pods[:2])
        put_route(rest, "team", route("team", task("urgency", {"old": 100})))
        put_route(rest, "team", route("team", task("intent", {"old": 100}), name="shop", model="shop"))
        with run_gateway(cluster.admin, tmp_path) as gateway:
            gateway.process.send_signal(signal.SIGSTOP)
            # what happens after its watches have ended, and before the API server has begun anew, is no history to it
            await asyncio.to_thread(own_cluster.restart_api_server, signal.SIGKILL)
            put_pods(rest, "team", "new", pods[2:])
            latest = put_route(rest, "team", route("team", task("urgency", {"new": 100})))
            delete_route(rest, "team", "shop")
            await asyncio.to_thread(own_cluster.restart_api_server, signal.SIGKILL)
            gateway.process.send_signal(signal.SIGCONT)
            async with AsyncTaskClient(gateway.address) as client:
                assert set(await revisions(client, "team/desk/urgency", asked=5)) <= {"old", "new"}
                await soon("it follows", lambda: gateway.follows("team") == latest, seconds=60)
                await soon("what is deleted is gone", lambda: len(gateway.state().tables) == 1)
                assert await revisions(client, "team/desk/urgency", asked=5) == {"new": 5}
            assert "listing again" in gateway.log_text()


async def test_routes_wait_for_the_servers_that_they_name(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    full = f"{namespace}/desk/urgency"
    put_pods(rest, namespace, "old", pods[:1])
    put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))

    def fault(gateway: GatewayProcess) -> str:
        return next(each.fault for each in gateway.state().tables)

    with run_gateway(cluster.admin, tmp_path, namespace) as gateway:
        async with constant_load(gateway, full, clients=2) as ended, AsyncTaskClient(gateway.address) as client:
            second = put_route(rest, namespace, route(namespace, task("urgency", {"new": 100})))
            await soon("it waits", lambda: f"generation {second} waits" in fault(gateway))
            assert await revisions(client, full, asked=5) == {"old": 5}
            put_pods(rest, namespace, "new", pods[1:2])
            await soon("the server is known", lambda: gateway.follows(namespace) == second)
            assert fault(gateway) == ""
            assert await revisions(client, full, asked=5) == {"new": 5}
        assert errors(ended) == {}
        third = put_route(rest, namespace, route(namespace, task("urgency", {"never": 100})))
        waited = await soon("there is none", lambda: gateway.follows(namespace) == third)
        assert 3 < waited < 12


async def test_counts_begin_at_0_with_every_window_and_say_who_answered(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    full = f"{namespace}/desk/urgency"
    for revision, server in (("old", pods[0]), ("new", pods[1])):
        put_pods(rest, namespace, revision, [server])

    def step(weight: int, window: str) -> int:
        weights = {"old": 100 - weight, "new": weight}
        return put_route(rest, namespace, route(namespace, task("urgency", weights, window=window)))

    def counted(gateway: GatewayProcess) -> dict[str, tuple[str, int]]:
        return {each.revision: (each.window, each.requests) for each in gateway.state().counts if each.task == full}

    step(10, "new/1")
    with run_gateway(cluster.admin, tmp_path, namespace) as gateway:
        async with AsyncTaskClient(gateway.address) as client:
            await revisions(client, full, asked=30)
            counts = counted(gateway)
            assert {window for window, _ in counts.values()} == {"new/1"}
            assert sum(requests for _, requests in counts.values()) == 30
            step(100, "new/2")
            await soon("the next window", lambda: counted(gateway) == {"old": ("new/2", 0), "new": ("new/2", 0)})
            await revisions(client, full, asked=7)
            assert counted(gateway) == {"old": ("new/2", 0), "new": ("new/2", 7)}
            [new] = [each for each in gateway.state().counts if each.revision == "new"]
            assert (sum(new.latencies), new.errors, new.in_flight) == (7, {}, 0)
            total = sum(value for labels, value in gateway.samples("requests_total") if labels["task"] == "urgency")
            running_now = gateway.samples("in_flight_requests")
    assert total == 37  # over all windows
    assert running_now == [({"namespace": namespace, "model": "desk"}, 0.0)]


async def test_a_short_name_is_the_older_models_and_a_table_cannot_take_another_namespaces_names(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    other = f"{namespace}-2"
    objects.namespace(rest, other)
    put_pods(rest, namespace, "old", pods[:1])
    put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))
    await asyncio.sleep(1.1)  # creation times have whole seconds
    put_pods(rest, other, "new", pods[1:2])
    put_route(rest, other, route(other, task("urgency", {"new": 100})))
    put_route(rest, other, route(namespace, task("stolen", {"new": 100}), name="thief"))
    with run_gateway(cluster.admin, tmp_path, namespace, other) as gateway:
        async with AsyncTaskClient(gateway.address) as client:
            names = {each.full_name: each.name for each in await client.tasks()}
            assert names == {f"{namespace}/desk/urgency": "urgency", f"{other}/desk/urgency": f"{other}/desk/urgency"}
            assert await revisions(client, "desk/urgency", asked=3) == {"old": 3}
            assert await revisions(client, f"{other}/desk/urgency", asked=3) == {"new": 3}
        taken = {(each.task, each.name): each.owner for each in gateway.state().names_taken}
        first, second = f"{namespace}/desk/urgency", f"{other}/desk/urgency"
        assert taken == {(second, "desk/urgency"): first, (second, "urgency"): first}
        [fault] = [each.fault for each in gateway.state().tables if each.name == "thief"]
        assert fault == f"generation 1 has spec.namespace {namespace!r}, and is in {other!r}"


async def test_calls_end_before_the_program_does(
    cluster: ClusterClient, rest: httpx.Client, namespace: str, tmp_path: Path, pods: tuple[FakeTriton, ...]
) -> None:
    pods[0].seconds = 1.0
    put_pods(rest, namespace, "old", pods[:1])
    put_route(rest, namespace, route(namespace, task("urgency", {"old": 100})))
    with run_gateway(cluster.admin, tmp_path, namespace, MULTITASK_MAX_CONNECTION_AGE_SECONDS="1") as gateway:
        async with AsyncTaskClient(gateway.address) as client:
            asked = asyncio.create_task(client.predict(f"{namespace}/desk/urgency", text="x"))
            await soon("it runs", lambda: pods[0].running == 1)
            gateway.terminate()
            await soon("nobody is sent here any more", lambda: not gateway.is_ready())
            assert (await asked).revision == "old"
        assert await asyncio.to_thread(gateway.process.wait, 60) == 0
    assert "Traceback" not in gateway.log_text()
