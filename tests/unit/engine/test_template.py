from __future__ import annotations

import pytest

from multitask_serving.engine.errors import TemplateError
from multitask_serving.engine.prompt.encoding import compile_pieces
from multitask_serving.engine.prompt.template import (
    Field,
    answer_separator,
    fields_of,
    fields_of_pieces,
    parse_template,
)
from support.engine_builders import tokenizer


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", ()),
        ("no field", ("no field",)),
        ("{text}", (Field("text"),)),
        ("a {x} b", ("a ", Field("x"), " b")),
        ("{x}{y}", (Field("x"), Field("y"))),
        ('{{"a": {x}}}', ('{"a": ', Field("x"), "}")),
        ("{{x}}", ("{x}",)),
        ("{{{x}}}", ("{", Field("x"), "}")),
        ("{größe} 和 {文本}", (Field("größe"), " 和 ", Field("文本"))),
    ],
)
def test_a_template_splits_into_literals_and_fields(prompt: str, parts: tuple[str | Field, ...]) -> None:
    assert parse_template(prompt) == parts


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a {x", "position 3: a single '{'"),
        ("a } b", "position 3: a single '}'"),
        ("ab{}", "position 3: '{}' is not a field"),
        ("{a b}", "position 1: '{a b}' is not a field"),
        ("{0}", "position 1: '{0}' is not a field"),
        ("{x!r}", "position 1: '{x!r}' is not a field"),
        ("{x.y}", "position 1: '{x.y}' is not a field"),
        ("{{x}", "position 4: a single '}'"),
        ("{x\ny}", "position 1: '{x\\ny}' is not a field"),
    ],
)
def test_a_broken_template_is_refused_with_the_position(prompt: str, message: str) -> None:
    with pytest.raises(TemplateError) as error:
        parse_template(prompt)
    assert message in str(error.value)


def test_fields_are_listed_once_in_order_of_use() -> None:
    prompt = "{b} {a} {b}"
    assert fields_of(prompt) == ("b", "a")
    assert fields_of_pieces(compile_pieces(prompt, tokenizer())) == ("b", "a")


@pytest.mark.parametrize(
    ("prompt", "separator"),
    [("Urgency:", " "), ("Urgency: ", ""), ("Urgency:\n", ""), ("{text}", " "), ("{text}\n", ""), ("", " ")],
)
def test_template_and_pieces_agree_on_what_precedes_an_answer(prompt: str, separator: str) -> None:
    assert answer_separator(prompt) == separator
    assert answer_separator(compile_pieces(prompt, tokenizer())) == separator
