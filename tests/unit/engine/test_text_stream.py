from __future__ import annotations

import random

import pytest

from multitask_serving.engine.generation.text_stream import TextStream
from support.engine_builders import tokenizer

TOK = tokenizer()


def ids_of(text: str) -> list[int]:
    ids: list[int] = TOK(text, add_special_tokens=False).input_ids
    return ids


def run(text: str, *stops: str, separator: str = "") -> tuple[list[str], bool]:
    """Each token's delta, then what finishing gives; and whether it stopped."""
    stream = TextStream(TOK.backend_tokenizer, stops, separator)
    deltas = []
    for token in ids_of(text):
        deltas.append(stream.push(token))
        if stream.stopped:
            return deltas, True
    return [*deltas, stream.finish()], stream.stopped


@pytest.mark.parametrize("text", ["hello", "a 😀😀 b", "顾客想退款", "é", "zurück\n\n", " lead", ""])
def test_the_deltas_are_the_text_and_no_delta_holds_half_a_character(text: str) -> None:
    deltas, _ = run(text)
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


def test_a_character_of_several_tokens_comes_out_whole_with_its_last_token() -> None:
    assert len(ids_of("🦊")) == 3
    deltas, _ = run("🦊")
    assert deltas == ["", "", "🦊", ""]


def test_bytes_that_never_became_a_character_are_dropped_at_the_end() -> None:
    stream = TextStream(TOK.backend_tokenizer)
    pushed = [stream.push(token) for token in [*ids_of("ab"), *ids_of("🦊")[:2]]]
    assert "".join(pushed) + stream.finish() == "ab"


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("one\ntwo", ("\n",), "one"),
        ("a##b###c", ("###",), "a##b"),
        ("12123", ("123",), "12"),
        ("xENDy", ("END", "Ny"), "x"),
        ("xyEND", ("yEND", "END"), "x"),
        ("\nx", ("\n",), ""),
        ("please answer at once", ("er at",), "please answ"),
        ("😀🦊x", ("🦊",), "😀"),
        ("no stop##", ("###",), "no stop##"),
        ("ab", ("",), "ab"),
    ],
)
def test_text_ends_before_the_first_stop_string_even_across_tokens(
    text: str, stops: tuple[str, ...], kept: str
) -> None:
    deltas, stopped = run(text, *stops)
    assert "".join(deltas) == kept
    assert stopped == (kept != text)


def test_what_may_begin_a_stop_string_is_held_back_until_it_cannot() -> None:
    deltas, _ = run("1212x", "123")
    assert deltas == ["", "", "12", "", "12x", ""]


def test_the_separator_is_left_out_once_and_is_no_stop() -> None:
    assert "".join(run("  x y", " y", separator=" ")[0]) == " x"
    assert "".join(run("x y", separator=" ")[0]) == "x y"
    assert "".join(run(" ", separator=" ")[0]) == ""


def test_random_texts_and_stops_agree_with_searching_the_whole_text() -> None:
    draw = random.Random(5)
    for _ in range(400):
        text = "".join(draw.choice("abé😀\n") for _ in range(draw.randint(0, 14)))
        stops = tuple(
            "".join(draw.choice("abé😀\n") for _ in range(draw.randint(1, 3))) for _ in range(draw.randint(0, 2))
        )
        cuts = [at for at in (text.find(stop) for stop in stops) if at >= 0]
        deltas, stopped = run(text, *stops)
        assert "".join(deltas) == text[: min(cuts, default=len(text))], (text, stops)
        assert stopped == bool(cuts)
