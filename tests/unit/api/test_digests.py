from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from multitask_api.stages.digests import digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (2, 2.0),
        ({"a": 2}, {"a": 2.0}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1, 2], (1, 2)),
        ({"a": 1, "b": None}, {"a": 1}),
        ({1: "a"}, {"1": "a"}),
        (-0.0, 0),
    ],
)
def test_equal_values_have_equal_digests(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [([1, 2], [2, 1]), (1, True), ("2", 2), (2, 2.5), ([], {}), ("a", "A"), ({"a": []}, {}), (0.1, 0.1 + 1e-16 * 5)],
)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": -float("inf")}])
def test_nan_has_no_digest(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot cover NaN or infinity"):
        digest(value)


def test_an_object_has_no_digest() -> None:
    with pytest.raises(TypeError, match="cannot cover a object"):
        digest({"a": object()})


def test_a_digest_is_the_same_in_every_process() -> None:
    code = "from multitask_api.stages.digests import digest; print(digest({'b': {'x', 'y'} and 1.5, 'a': 'é大'}))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=dict(os.environ) | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {digest({"a": "é大", "b": 1.5})}
    assert len(digests.pop()) == 12
