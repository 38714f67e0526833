"""How many requests may be sent again."""

from __future__ import annotations

import pytest

from multitask_serving.gateway.retry_budget import RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def allowed(budget: RetryBudget, asked: int) -> int:
    return sum(budget.allows_retry() for _ in range(asked))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def empty(clock: Clock) -> RetryBudget:
    """A budget of which everything has been used."""
    budget = RetryBudget(per_request=0.2, per_second=5, capacity=50, clock=clock)
    assert allowed(budget, 1000) == 50
    return budget


@pytest.mark.parametrize(("requests", "retries"), [(0, 0), (4, 0), (6, 1), (101, 20), (10_000, 50)])
def test_requests_earn_retries_up_to_the_capacity(empty: RetryBudget, requests: int, retries: int):
    for _ in range(requests):
        empty.request()
    assert allowed(empty, 1000) == pytest.approx(retries, abs=0.1)


@pytest.mark.parametrize(("seconds", "retries"), [(0.1, 0), (0.25, 1), (1, 5), (4, 20), (3600, 50)])
def test_so_does_time(empty: RetryBudget, clock: Clock, seconds: float, retries: int):
    clock.now += seconds
    assert allowed(empty, 1000) == retries


def test_when_everything_fails_the_servers_get_a_fifth_more_and_not_twice_as_much(empty: RetryBudget, clock: Clock):
    retried = 0
    for _ in range(10_000):  # 100 seconds of 100 requests a second
        clock.now += 0.01
        empty.request()
        retried += empty.allows_retry()
    assert retried == pytest.approx(10_000 * 0.2 + 100 * 5, rel=0.01)
