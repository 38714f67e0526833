from __future__ import annotations

import pytest

from multitask_api.template import Field, TemplateError, fields_of, parse_template


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("{text}", (Field("text"),)),
        ("Say: {text}\n", ("Say: ", Field("text"), "\n")),
        ("{a}{b}", (Field("a"), Field("b"))),
        ("{{{a}}}", ("{", Field("a"), "}")),
        ('{{"x": {a}}}', ('{"x": ', Field("a"), "}")),
        ("{_a1}{文}", (Field("_a1"), Field("文"))),
        ("no field", ("no field",)),
        ("", ()),
    ],
)
def test_a_prompt_is_split_into_literals_and_fields(prompt: str, parts: tuple[str | Field, ...]) -> None:
    assert parse_template(prompt) == parts


def test_fields_come_once_in_order_of_first_use() -> None:
    assert fields_of("{b} {a} {b}") == ("b", "a")


@pytest.mark.parametrize(
    ("prompt", "position", "reason"),
    [
        ("a { b", 3, "a single '{'"),
        ("a } b", 3, "a single '}'"),
        ("{a}}", 4, "a single '}'"),
        ("{}", 1, "'{}' is not a field"),
        ("x {a b}", 3, "'{a b}' is not a field"),
        ("{1a}", 1, "is not a field"),
        ("{a.b}", 1, "is not a field"),
        ("{a!r}", 1, "is not a field"),
    ],
)
def test_an_error_has_its_position(prompt: str, position: int, reason: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(prompt)
    assert caught.value.position == position
    assert reason in str(caught.value)
