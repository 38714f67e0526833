"""Labels that are reported after the answer, through real gateways with stand-ins for Triton behind them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_api.serving_io.gateway_state import LabelCounts
from multitask_client import (
    AsyncTaskClient,
    FailedPrecondition,
    InvalidRequest,
    Prediction,
    TaskClient,
    TaskNotFound,
    Unavailable,
)
from multitask_serving.gateway.endpoints import FixedEndpoints
from multitask_serving.gateway.errors import InvalidRequest as InvalidRequestError
from multitask_serving.gateway.labels.reports import LabelReports
from multitask_serving.gateway.labels.request_ids import InvalidLabelKey, RequestIds, label_digest, read_key
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.server import Gateway, ServerOptions, serving_gateway
from multitask_serving.gateway.stats import Stats
from support.fake_triton import FakeTriton, running

HOST = "127.0.0.1"
KEY = b"k" * 32
URGENCY = "team/desk/urgency"
CAFE = ("cafe\u0301", "caf\u00e9")
"""One label, decomposed and composed."""


def table(
    port: int = 1,
    window: str | None = "new/1",
    revisions: tuple[str, ...] = ("old", "new"),
    kind: str = "Classification",
) -> RouteTable:
    """Everything goes to the first revision, unless it is pinned."""
    backends = tuple(
        Backend(service=HOST, port=port, weight=100 * (number == 0), revision=name)
        for number, name in enumerate(revisions)
    )
    labels = ("low", "high", CAFE[0]) if kind == "Classification" else ()
    shared = {"fields": ("text",), "window": window, "backends": backends}
    tasks = (
        RoutedTask(name="urgency", type=kind, labels=labels, **shared),
        RoutedTask(name="reply", type="Generation", **shared),
    )
    spec = TaskRouteSpec(namespace="team", model="desk", tasks=tasks)
    return RouteTable([TaskRoute(metadata=RouteMetadata(name="desk"), spec=spec)])


class Desk:
    """Gateways that follow one table, each with a client."""

    def __init__(self, routes: RouteTable) -> None:
        self.routes = routes
        self.gateways: list[Gateway] = []
        self.clients: list[AsyncTaskClient] = []

    def follow(self, routes: RouteTable) -> None:
        self.routes = routes
        for gateway in self.gateways:
            gateway.follow()

    def labels(self, number: int = 0) -> dict[str, LabelCounts | None]:
        """Revision → the labels of the task urgency in the state of a gateway."""
        rows = self.gateways[number].stats.window_counts()
        return {row.revision: row.labels for row in rows if row.task == URGENCY}


@asynccontextmanager
async def gateways(*keys: bytes | None) -> AsyncIterator[Desk]:
    """A gateway for each key, in front of one server that answers ``low``, or a text if the request streams."""
    async with running(FakeTriton(HOST)) as (triton,):
        desk = Desk(table(triton.port))
        async with _started(desk, keys):
            yield desk


@asynccontextmanager
async def _started(desk: Desk, keys: tuple[bytes | None, ...]) -> AsyncIterator[None]:
    if not keys:
        yield
        return
    options = ServerOptions(label_key=keys[0])
    async with (
        serving_gateway(lambda: desk.routes, FixedEndpoints(), f"{HOST}:0", options=options) as gateway,
        AsyncTaskClient(f"{HOST}:{gateway.port}") as client,
    ):
        await gateway.start()
        desk.gateways.append(gateway)
        desk.clients.append(client)
        async with _started(desk, keys[1:]):
            yield


async def answer(client: AsyncTaskClient, **how: str) -> Prediction:
    return await client.predict("urgency", text="x", **how)


# -- reports that are sent again ---------------------------------------------------------------------------------------


async def test_one_answer_counts_at_most_once_in_each_gateway():
    async with gateways(KEY, KEY, KEY) as desk:
        request_id = (await answer(desk.clients[0])).request_id
        for again in range(3):
            counted = [await client.report_label(request_id, "low") for client in desk.clients]
            assert counted == [again == 0] * 3
        assert [desk.labels(number)["old"] for number in range(3)] == [LabelCounts(right=1)] * 3


FAILED = {
    "a label that the task does not have": lambda client, request_id: client.report_label(request_id, "urgent"),
    "an id that is cut": lambda client, request_id: client.report_label(request_id[:-2], "low"),
}


@pytest.mark.parametrize("sentence", FAILED)
async def test_a_report_that_a_gateway_answered_with_an_error_did_not_count_and_may_be_sent_again(sentence):
    async with gateways(KEY, KEY) as desk:
        first, second = desk.clients
        request_id = (await answer(first)).request_id
        with pytest.raises(InvalidRequest) as caught:
            await FAILED[sentence](first, request_id)
        assert caught.value.answered
        assert await second.report_label(request_id, "low") is True
        assert [desk.labels(number).get("old") for number in range(2)] == [None, LabelCounts(right=1)]


async def test_a_report_whose_answer_is_lost_may_have_counted():
    """The client must not say that it can be sent again: the gateway has counted it."""
    async with gateways(KEY) as desk:
        port = desk.gateways[0].port
        request_id = (await answer(desk.clients[0])).request_id

        async def lose_the_answer(reader, writer):
            """Passes on what the client sends; and what the gateway sends, until the label has counted."""
            from_gateway, to_gateway = await asyncio.open_connection(HOST, port)

            async def give_on():
                while data := await reader.read(65_536):
                    to_gateway.write(data)

            giving = asyncio.create_task(give_on())
            while data := await from_gateway.read(65_536):
                if desk.labels().get("old") is not None:
                    break
                writer.write(data)
            giving.cancel()
            for stream in (writer, to_gateway):
                stream.transport.abort()

        proxy = await asyncio.start_server(lose_the_answer, HOST, 0)
        address = f"{HOST}:{proxy.sockets[0].getsockname()[1]}"
        async with proxy, AsyncTaskClient(address, timeout_s=20) as client:
            with pytest.raises(Unavailable) as caught:
                await client.report_label(request_id, "low")
        assert not caught.value.answered
        assert desk.labels()["old"] == LabelCounts(right=1)


# -- through gateways --------------------------------------------------------------------------------------------------

# the sentence, the label that is reported for the answer "low", how it counts
REPORTS = [
    ("the answer itself is right", "low", LabelCounts(right=1)),
    ("spaces around a label do not count", " low\n", LabelCounts(right=1)),
    ("another label is wrong", "high", LabelCounts(wrong=1)),
    ("also in another form of Unicode", CAFE[1], LabelCounts(wrong=1)),
]


@pytest.mark.parametrize(("label", "counts"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS])
async def test_a_label_counts_for_the_revision_that_answered(label: str, counts: LabelCounts):
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        assert await client.report_label((await answer(client)).request_id, label) is True
        assert desk.labels() == {"old": counts, "new": None}
        assert desk.gateways[0].stats.snapshot()[URGENCY, "old"].labels == counts


async def test_any_gateway_takes_the_label_of_an_answer():
    async with gateways(KEY, KEY) as desk:
        first, second = desk.clients
        ids = [(await answer(client)).request_id for client in (first, second, first)]
        for client, request_id in zip((second, first, second), ids, strict=True):
            assert await client.report_label(request_id, "low")
        assert (desk.labels(0)["old"], desk.labels(1)["old"]) == (LabelCounts(right=1), LabelCounts(right=2))


async def test_a_label_counts_once():
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        request_id = (await answer(client)).request_id
        told = [await client.report_label(request_id, label) for label in ("high", "high", "low")]
        assert told == [True, False, False]
        assert desk.labels()["old"] == LabelCounts(wrong=1)


async def test_the_answer_to_a_pinned_request_is_no_sample():
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        pinned = await answer(client, revision="new")
        assert pinned.revision == "new"
        assert await client.report_label(pinned.request_id, "high") is False
        assert await client.report_label((await answer(client, routing_key="k")).request_id, "high") is True
        assert desk.labels() == {"old": LabelCounts(wrong=1), "new": None}


@pytest.mark.parametrize(("window", "counts"), [("new/1", True), ("new/4", True), ("newer/1", False), (None, False)])
async def test_a_label_counts_as_long_as_the_rollout_of_its_answer_goes_on(window: str | None, counts: bool):
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        request_id = (await answer(client)).request_id
        desk.follow(table(window=window))
        assert await client.report_label(request_id, "low") is counts
        assert desk.labels()["old"] == (LabelCounts(right=1) if counts else None)


async def test_a_stream_has_an_id_if_its_answer_is_a_label():
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        *_, text = [part async for part in client.predict_stream("reply", text="x")]
        assert isinstance(text, Prediction)
        assert (text.text, text.request_id) == ("0 1 2 ", "")


async def test_gateways_take_no_labels_unless_told_to():
    async with gateways(None) as desk:
        (client,) = desk.clients
        prediction = await answer(client)
        assert prediction.request_id == ""
        with pytest.raises(FailedPrecondition, match=r"set gateway\.labels\.enabled of the chart to true") as caught:
            await client.report_label(prediction.request_id, "low")
        assert caught.value.reason == "LABELS_OFF"


async def test_a_label_that_the_task_does_not_have_is_refused_with_those_that_it_has():
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        request_id = (await answer(client)).request_id
        with pytest.raises(InvalidRequest) as caught:
            await client.report_label(request_id, "lwo")
        assert list(caught.value.violations) == ["label"]
        assert f"'lwo' is not a label of task 'urgency'; they are 'low', 'high', {CAFE[0]!r}" in str(caught.value)
        assert desk.labels()["old"] is None
        assert await client.report_label(request_id, "low"), "a mistake uses nothing up"


async def test_a_task_that_is_gone_or_has_no_labels_any_more_takes_none():
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        request_id = (await answer(client)).request_id
        desk.follow(table(kind="Generation"))
        with pytest.raises(InvalidRequest, match="is a generation task; labels are reported for classification tasks"):
            await client.report_label(request_id, "low")
        desk.follow(RouteTable())
        with pytest.raises(TaskNotFound):
            await client.report_label(request_id, "low")


def altered(request_id: str, position: int) -> str:
    """The id with one bit of a byte changed."""
    data = bytearray(base64.urlsafe_b64decode(request_id + "=" * (-len(request_id) % 4)))
    data[position] ^= 1
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def other_key(request_id: str) -> str:
    return RequestIds(b"o" * 32).issue(URGENCY, "old", "new/1", "low", is_sample=True)


FORGED = [
    ("empty", lambda own: ""),
    ("no base64", lambda own: "&" + own),
    ("not ASCII", lambda own: "é" + own),
    ("cut short", lambda own: own[:8]),
    ("longer", lambda own: own + "AAAA"),
    ("very long", lambda own: own * 100),
    ("signed with another key", other_key),
    *(
        (f"byte {position} altered", lambda own, at=position: altered(own, at))
        for position in (0, 1, 5, 12, 20, -17, -1)
    ),
]


@pytest.mark.parametrize("forge", [row[1] for row in FORGED], ids=[row[0] for row in FORGED])
async def test_an_id_that_no_gateway_gave_is_refused(forge):
    async with gateways(KEY) as desk:
        (client,) = desk.clients
        own = (await answer(client)).request_id
        with pytest.raises(InvalidRequest, match="is not an id that a gateway of this installation gave") as caught:
            await client.report_label(forge(own), "low")
        assert list(caught.value.violations) == ["request_id"]
        assert desk.labels()["old"] is None


async def test_the_blocking_client_reports_too():
    async with gateways(KEY) as desk:

        def report() -> tuple[bool, bool]:
            with TaskClient(f"{HOST}:{desk.gateways[0].port}") as client:
                request_id = client.predict("urgency", text="x").request_id
                return client.report_label(request_id, "high"), client.report_label(request_id, "high")

        assert await asyncio.to_thread(report) == (True, False)
        assert desk.labels()["old"] == LabelCounts(wrong=1)


# -- ids and memory ----------------------------------------------------------------------------------------------------


def test_an_id_says_what_was_answered_and_differs_each_time():
    ids = RequestIds(KEY)
    first, second = (ids.issue(URGENCY, "r1", "r1/2", "low", is_sample=True) for _ in range(2))
    assert first != second
    read = ids.read(first)
    assert read[:5] == (URGENCY, "r1", "r1/2", True, label_digest("low"))
    assert read.nonce != ids.read(second).nonce
    assert len(first) < 200


def test_an_id_has_no_text_in_it():
    label = "a label that says too much"
    request_id = RequestIds(KEY).issue(URGENCY, "r1", "", label, is_sample=False)
    assert b"says" not in base64.urlsafe_b64decode(request_id + "==")
    assert RequestIds(KEY).read(request_id).is_sample is False


def test_the_memory_of_reported_labels_is_bounded():
    stats = Stats()
    stats.follow(table())
    reports = LabelReports(KEY, stats, remembered=3)
    route = table().resolve(URGENCY)
    ids = [reports.request_id(route, "old", "low", pinned=False) for _ in range(5)]

    def told(numbers: list[int]) -> list[bool]:
        return [reports.report(ids[number], "low", lambda name: route) for number in numbers]

    assert told([0, 1, 2, 2, 1, 0]) == [True] * 3 + [False] * 3
    assert told([3, 4]) == [True, True]
    assert told([4, 3, 2]) == [False] * 3, "the newest are remembered"
    assert told([0]) == [True], "what is forgotten counts again"


def test_a_report_is_checked_against_the_rights_of_who_reports():
    def denied(name: str) -> object:
        assert name == URGENCY
        raise InvalidRequestError([])

    stats = Stats()
    stats.follow(table())
    reports = LabelReports(KEY, stats)
    request_id = reports.request_id(table().resolve(URGENCY), "old", "low", pinned=False)
    with pytest.raises(InvalidRequestError):
        reports.report(request_id, "low", denied)
    assert {row.labels for row in stats.window_counts()} == {None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "has 0 bytes"),
        (b"  " + b"k" * 31 + b"\n", "has 31 bytes; make one of at least 32"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, words: str):
    path = tmp_path / "label-key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidLabelKey, match=words) as caught:
        read_key(path)
    assert str(path) in str(caught.value)
    path.write_bytes(b"k" * 32 + b"\n")
    assert read_key(path) == b"k" * 32
