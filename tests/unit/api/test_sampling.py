from __future__ import annotations

import pytest

from multitask_api.stages.sampling import instance_balanced, mixture

ROWS = {"a": 500_000, "b": 50_000, "c": 10_000, "d": 1_000}


@pytest.mark.parametrize(
    ("temperature", "limit", "expected"),
    [
        (1, None, (0.891, 0.089, 0.018, 0.002)),
        (2, None, (0.666, 0.210, 0.094, 0.030)),
        (2, 50_000, (0.386, 0.386, 0.173, 0.055)),  # clipped first, flattened second
        (3.33, 50_000, (0.342, 0.342, 0.211, 0.106)),
    ],
)
def test_the_reference_values(temperature: float, limit: int | None, expected: tuple[float, ...]) -> None:
    rates = mixture(ROWS, temperature=temperature, size_limit=limit)
    assert tuple(rates) == tuple(ROWS)
    assert sum(rates.values()) == pytest.approx(1)
    assert [round(value, 3) for value in rates.values()] == list(expected)


def test_stage_two_draws_every_row_alike() -> None:
    assert instance_balanced(ROWS) == mixture(ROWS, temperature=1, size_limit=None)
    assert instance_balanced({"a": 3, "b": 1}) == {"a": 0.75, "b": 0.25}


def test_the_limit_caps_the_rate_of_the_large_tasks_only() -> None:
    assert mixture({"a": 10, "b": 5}, temperature=1, size_limit=100) == mixture(
        {"a": 10, "b": 5}, temperature=1, size_limit=None
    )
    assert mixture({"a": 900, "b": 100}, temperature=1, size_limit=100) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, {"a": 3 / 6, "b": 2 / 6, "c": 1 / 6}),
        ({"c": 2.0}, {"a": 3 / 7, "b": 2 / 7, "c": 2 / 7}),
        ({"a": 0.5, "b": 1.0}, {"a": 1.5 / 4.5, "b": 2 / 4.5, "c": 1 / 4.5}),
        ({"a": 4.0, "b": 4.0, "c": 4.0}, {"a": 3 / 6, "b": 2 / 6, "c": 1 / 6}),
    ],
)
def test_a_weight_multiplies_what_is_left_after_limit_and_temperature(weights, expected) -> None:
    rows = {"a": 900, "b": 4_00, "c": 100}  # their roots are as 3, 2 and 1
    assert mixture(rows, temperature=2, size_limit=None, weights=weights) == pytest.approx(expected)


def test_the_limit_does_not_cap_a_weight() -> None:
    assert mixture({"a": 900, "b": 100}, temperature=1, size_limit=100, weights={"a": 3.0}) == {"a": 0.75, "b": 0.25}


def test_one_task_and_no_tasks() -> None:
    assert mixture({"a": 7}, temperature=5, size_limit=3) == {"a": 1.0}
    assert mixture({}, temperature=2, size_limit=None) == {}


@pytest.mark.parametrize(
    ("rows", "temperature", "message"),
    [
        ({"a": 0, "b": 1}, 2, "without training rows cannot be sampled: a"),
        ({"a": 1}, 0.5, "temperature must be at least 1"),
    ],
)
def test_invalid_rows_and_temperatures(rows: dict[str, int], temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture(rows, temperature=temperature, size_limit=None)
