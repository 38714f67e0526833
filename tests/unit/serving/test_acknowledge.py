"""A gateway says which tables it follows: when, how often, and what one table's failure does to the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from multitask_kubernetes.errors import (
    ClusterError,
    Conflict,
    Forbidden,
    NotFound,
    Request,
    RequestRejected,
    Unavailable,
)
from multitask_serving.gateway.cluster.acknowledge import Acknowledger
from multitask_serving.gateway.cluster.tables import FollowedTable, Key
from support import virtual_time

REQUEST = Request("patch", "taskroutes/status", "team", "desk")
FAILURES: dict[str, Callable[[], ClusterError]] = {
    "has 64 entries already": lambda: RequestRejected(REQUEST, 422, "Invalid", "must have at most 64 items"),
    "may not be written": lambda: Forbidden(REQUEST, 403, "Forbidden", "no"),
    "is gone": lambda: NotFound("gone"),
    "is another object": lambda: Conflict("uid"),
}
DESK, SHOP, INBOX = ("team", "desk"), ("team", "shop"), ("other", "inbox")


class ApiServer:
    """Keeps what is applied. The watch shows it when `watch` is called, or at once."""

    def __init__(self, *keys: Key, lags: bool = False) -> None:
        self.tables = {key: FollowedTable(f"u-{key[1]}", "", generation=1, version=1) for key in keys}
        self.written: list[tuple[float, Key, int]] = []
        self.failures: dict[Key, Callable[[], ClusterError]] = {}
        self.away = False
        self.lags = lags
        self.version = 1
        self.shown: dict[Key, FollowedTable] = dict(self.tables)
        self.acknowledger = Acknowledger("gateway-a", lambda: self.shown)

    async def apply_status(self, body: Any) -> Any:
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        (entry,) = body["status"]["gateways"]
        self.written.append((asyncio.get_running_loop().time(), key, entry["observedGeneration"]))
        await asyncio.sleep(0.001)
        if self.away:
            raise Unavailable("no connection")
        if key in self.failures:
            raise self.failures[key]()
        self.set(key, acknowledged=entry["observedGeneration"])
        return {"metadata": {"resourceVersion": str(self.version)}}

    def set(self, key: Key, **fields: Any) -> None:
        """Somebody writes."""
        self.version += 1
        self.tables[key] = replace(self.tables[key], version=self.version, **fields)
        if not self.lags:
            self.watch()

    def watch(self) -> None:
        """The watch has caught up."""
        self.shown = dict(self.tables)
        self.acknowledger.changed()

    def times(self, key: Key) -> list[float]:
        return [time for time, written, _ in self.written if written == key]


def follow(server: ApiServer, *steps: Callable[[], object], pause: float = 5.0) -> ApiServer:
    """The acknowledger at work, and one step after the other."""

    async def main() -> None:
        client: Any = server
        task = asyncio.create_task(server.acknowledger.run(client))
        for step in (lambda: None, *steps):
            step()
            await asyncio.sleep(pause)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    virtual_time.run(main())
    return server


def test_each_generation_is_said_once():
    server = ApiServer(DESK, SHOP)
    follow(server, lambda: server.set(DESK, generation=2), lambda: server.set(DESK), server.watch)
    assert [each[1:] for each in server.written] == [(DESK, 1), (SHOP, 1), (DESK, 2)]


def test_what_the_status_has_already_is_not_said_again():
    server = ApiServer(DESK)
    server.set(DESK, acknowledged=1)
    assert follow(server).written == []


def test_while_the_watch_is_behind_the_own_write_counts():
    server = ApiServer(DESK, lags=True)

    def show_a_change_from_before() -> None:
        server.shown = {DESK: replace(server.shown[DESK], version=server.version - 1)}
        server.acknowledger.changed()

    follow(server, server.acknowledger.changed, show_a_change_from_before, server.watch)
    assert len(server.written) == 1


@pytest.mark.parametrize("key", [DESK, INBOX])
def test_an_entry_that_is_taken_away_is_written_again(key):
    server = ApiServer(DESK, SHOP, INBOX)
    follow(server, lambda: server.set(key, acknowledged=0))
    assert server.tables[key].acknowledged == 1
    assert [len(server.times(each)) for each in (DESK, SHOP, INBOX)] == [
        1 + (each == key) for each in (DESK, SHOP, INBOX)
    ]


def test_two_who_disagree_write_less_and_less_often():
    server = ApiServer(DESK)
    follow(server, *[lambda: server.set(DESK, acknowledged=0)] * 3600, pause=1.0)  # removed each second
    times = server.times(DESK)
    assert len(times) < 25
    assert times[-1] - times[-2] == pytest.approx(300, abs=2)


def test_a_new_generation_is_said_at_once_however_often_the_last_one_was_taken_away():
    server = ApiServer(DESK)
    follow(server, *[lambda: server.set(DESK, acknowledged=0)] * 100, lambda: server.set(DESK, generation=7), pause=1.0)
    assert (server.written[-1][1:], server.written[-1][0]) == ((DESK, 7), pytest.approx(101, abs=0.1))


@pytest.mark.parametrize("sentence", FAILURES)
@pytest.mark.parametrize("failing", [DESK, SHOP, INBOX])
def test_a_table_whose_status_cannot_be_written_holds_up_no_other(sentence, failing):
    server = ApiServer(DESK, SHOP, INBOX)
    server.failures[failing] = FAILURES[sentence]
    others = {DESK, SHOP, INBOX} - {failing}
    follow(server, lambda: [server.set(key, generation=2) for key in others], pause=60.0)
    for key in others:
        assert server.tables[key].acknowledged == 2
        assert server.times(key) == [pytest.approx(0, abs=0.1), pytest.approx(60, abs=0.1)]
    waits = [after - before for before, after in zip(server.times(failing), server.times(failing)[1:], strict=False)]
    assert max(waits) <= 15.1
    assert len(waits) < 20


def test_once_it_can_be_written_it_is():
    server = ApiServer(DESK)
    server.failures[DESK] = FAILURES["has 64 entries already"]
    follow(server, server.failures.clear, pause=60.0)
    assert server.tables[DESK].acknowledged == 1


def test_an_api_server_that_is_away_is_not_asked_for_each_table():
    server = ApiServer(*((f"team-{number}", "desk") for number in range(100)))
    server.away = True

    def back() -> None:
        assert len(server.written) < 15
        server.away = False

    follow(server, back, pause=60.0)
    assert all(table.acknowledged == 1 for table in server.tables.values())


def test_a_deleted_table_is_forgotten_and_one_of_the_same_name_is_new():
    server = ApiServer(DESK)

    def again() -> None:
        server.tables[DESK] = FollowedTable("u-2", "", generation=1)
        server.set(DESK)

    follow(server, again)
    assert [each[1:] for each in server.written] == [(DESK, 1), (DESK, 1)]
