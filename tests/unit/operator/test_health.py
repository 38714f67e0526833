"""``/healthz``: alive while every key gets its turn."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry

from multitask_operator.health import CannotListen, served
from multitask_operator.queue import Queue, Schedule


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def nothing(_: str) -> None:
    return None


def well() -> None:
    return None


@pytest.mark.parametrize(
    ("due", "now", "taken", "status", "oldest"),
    [
        pytest.param([], 999, False, 200, 0, id="nothing to do"),
        pytest.param([0], 100, False, 200, 100, id="a key waits, not too long"),
        pytest.param([0], 101, False, 503, 101, id="a key waits too long"),
        pytest.param([200, 0], 150, False, 503, 150, id="one waits too long, another is not due"),
        pytest.param([200], 150, False, 200, 0, id="a key in backoff, or not due for another reason"),
        pytest.param([0], 101, True, 503, 101, id="a worker hangs on a key"),
    ],
)
async def test_healthz(due: list[float], now: float, *, taken: bool, status: int, oldest: float) -> None:
    clock = Clock()
    queue: Queue[str] = Queue(nothing, workers=1, limit=1, schedule=Schedule(clock))
    for number, delay in enumerate(due):
        queue.add(f"key {number}", delay)
    if taken:
        queue.schedule.take()
    clock.now = now
    async with (
        served(queue, "127.0.0.1", 0, 100, well, CollectorRegistry()) as port,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/healthz")
        assert (answer.status_code, answer.json()["oldestSeconds"]) == (status, oldest)


@pytest.mark.parametrize(("fault", "status"), [(None, 200), ("a watch failed: forbidden", 503)])
async def test_readyz_says_why_nothing_is_watched(fault: str | None, status: int) -> None:
    queue: Queue[str] = Queue(nothing, workers=1, limit=1)
    async with (
        served(queue, "127.0.0.1", 0, 100, lambda: fault, CollectorRegistry()) as port,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert (answer.status_code, answer.json()) == (status, {"fault": fault})


async def test_a_port_that_is_taken_is_named() -> None:
    queue: Queue[str] = Queue(nothing, workers=1, limit=1)
    async with served(queue, "127.0.0.1", 0, 100, well, CollectorRegistry()) as port:
        with pytest.raises(
            CannotListen, match=rf"^cannot listen on 127\.0\.0\.1, port {port}: .*MULTITASK_HEALTH_PORT$"
        ):
            async with served(queue, "127.0.0.1", port, 100, well, CollectorRegistry()):
                pass
