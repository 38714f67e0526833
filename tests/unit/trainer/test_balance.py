"""The shares of the processes: everything once, and about as much for each."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from multitask_trainer.runtime.balance import balanced_shares

COSTS = st.lists(st.integers(1, 1000), max_size=60)


def loads(costs: list[int], shares: list[list[int]]) -> list[int]:
    return [sum(costs[item] for item in share) for share in shares]


@given(COSTS, st.integers(1, 9))
def test_every_item_is_in_exactly_one_share(costs: list[int], processes: int) -> None:
    shares = balanced_shares(costs, processes)
    assert len(shares) == processes
    assert sorted(item for share in shares for item in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)


@given(COSTS, st.integers(1, 9))
def test_shares_differ_by_one_item_at_most(costs: list[int], processes: int) -> None:
    by_share = loads(costs, balanced_shares(costs, processes))
    assert max(by_share) - min(by_share) <= max(costs, default=0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(2, 3))
def test_the_largest_share_is_within_a_third_of_the_least_possible(costs: list[int], processes: int) -> None:
    best = min(
        max(
            sum(cost for cost, own in zip(costs, owners, strict=True) if own == process) for process in range(processes)
        )
        for owners in product(range(processes), repeat=len(costs))
    )
    assert 3 * processes * max(loads(costs, balanced_shares(costs, processes))) <= (4 * processes - 1) * best


def test_long_rows_are_weighed_by_their_length() -> None:
    assert balanced_shares([8, 1, 1, 1, 1, 1, 1, 1, 1], 2) == [[0], [1, 2, 3, 4, 5, 6, 7, 8]]


def test_with_fewer_items_than_processes_some_have_none() -> None:
    assert balanced_shares([5, 3], 4) == [[0], [1], [], []]
