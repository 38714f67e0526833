from __future__ import annotations

import math

import pytest

from multitask_api.template import field_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a ", " a "),
        ("", ""),
        (7, "7"),
        (0.5, "0.5"),
        (1e30, "1e+30"),
        (True, "true"),
        (False, "false"),
        (math.nan, None),
        (math.inf, None),
        (None, None),
        (["a"], None),
        ({}, None),
    ],
)
def test_the_text_of_a_value(value: object, text: str | None) -> None:
    assert field_text(value) == text
