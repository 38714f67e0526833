"""What counts as the same answer."""

from __future__ import annotations

import pytest

from multitask_trainer.evaluation.agreement import (
    NEAR_TIES,
    agreement,
    differences,
    margin_at_difference,
    total_agreement,
)
from multitask_trainer.evaluation.answers import Answer, read_scores, write_scores

SURE, TIE = 0.5, 5e-4


def label(prediction, margin=SURE):
    return Answer(prediction, 1.0, margin, ("a",))


def text(*tokens, margins, end=True):
    """A text of tokens; ``margins`` has one more for EOS."""
    ends, length = [], 0
    for token in [*tokens, ""] if end else tokens:
        length += len(token)
        ends.append(length)
    return Answer("".join(tokens), 1.0, min(margins), ("x",), tuple(margins), tuple(ends))


LABELS = [
    ("equal", label("a"), "a", (1, 0, 0)),
    ("different and sure", label("a"), "b", (0, 0, 1)),
    ("different at a tie", label("a", TIE), "b", (0, 1, 0)),
    ("a margin of exactly the limit is no tie", label("a", 1e-3), "b", (0, 0, 1)),
    ("equal at a tie", label("a", TIE), "a", (1, 0, 0)),
]


@pytest.mark.parametrize(("sentence", "evaluated", "served", "counts"), LABELS, ids=[row[0] for row in LABELS])
def test_labels(sentence, evaluated, served, counts):
    actual = agreement(1, differences([evaluated], [served]))
    assert (actual.equal, actual.near_ties, actual.different) == counts, sentence


@pytest.mark.parametrize(
    ("precision", "margin", "tie"), [("fp32", 0.02, False), ("bf16", 0.02, True), ("bf16", 0.2, False)]
)
def test_bf16_ties_are_wider(precision, margin, tie):
    (difference,) = differences([label("a", margin)], ["b"], NEAR_TIES[precision])
    assert difference.near_tie is tie


ABC = text("ab", "cd", "ef", margins=[0.1, 0.2, 0.3, 0.4])
TEXTS = [
    ("the first token", "xb", 0.1),
    ("inside the first token", "ax", 0.1),
    ("the second token, or the one before it", "abxx", 0.1),
    ("the third token, or the second", "abcdx", 0.2),
    ("served ends early", "abcd", 0.2),
    ("served goes on", "abcdefgh", 0.3),
]


@pytest.mark.parametrize(("sentence", "served", "margin"), TEXTS, ids=[row[0] for row in TEXTS])
def test_margin_of_a_text_is_that_of_its_first_difference(sentence, served, margin):
    assert margin_at_difference(ABC, served) == margin, sentence


def test_a_tie_elsewhere_excuses_nothing():
    answer = text("ab", "cd", "ef", "gh", margins=[SURE, SURE, SURE, TIE, SURE])
    assert not differences([answer], ["xx"])[0].near_tie
    assert differences([answer], ["abcdefxx"])[0].near_tie


def test_a_text_cut_at_its_length_limit():
    answer = text("ab", "cd", margins=[0.1, 0.2], end=False)
    assert margin_at_difference(answer, "abcdef") == 0.1


TIED_BEFORE = [
    # a text, its margins, its ends; the served text; is it a near tie?
    ("a character of three bytes, tied at its first", "你", (1e-4, 5, 5, 5), (0, 0, 1, 1), "好", True),
    ("the same behind another character", "a你", (5, 1e-4, 5, 5, 5), (1, 1, 1, 2, 2), "a好", True),
    ("a tie in the character before", "你好", (1e-4, 5, 5, 5, 5, 5, 5), (0, 0, 1, 1, 1, 2, 2), "你们", False),
    ("what might begin a stop string, held back", "a<bc", (5, 1e-4, 5, 5, 5), (1, 1, 1, 4, 4), "ax", True),
    ("a token held back in part", "a<bc", (1e-4, 5, 5, 5), (1, 1, 4, 4), "ax", True),
]


@pytest.mark.parametrize(
    ("sentence", "own", "margins", "ends", "served", "tie"), TIED_BEFORE, ids=[row[0] for row in TIED_BEFORE]
)
def test_every_token_since_the_last_common_character_counts(sentence, own, margins, ends, served, tie):
    answer = Answer(own, 1.0, min(margins), ("x",), margins, ends)
    assert differences([answer], [served])[0].near_tie is tie, sentence


def test_counts_add_up():
    answers = [label("a"), label("a"), label("a", TIE)]
    counts = agreement(3, differences(answers, ["a", "b", "b"]))
    both = total_agreement([counts, counts])
    assert (both.compared, both.equal, both.near_ties, both.different) == (6, 2, 2, 2)


def test_answers_survive_their_file(tmp_path):
    answers = [label("ä\n"), ABC, Answer("", 0.0, 0.0, ("one", "two"))]
    write_scores(tmp_path / "scores.parquet", answers)
    assert read_scores(tmp_path / "scores.parquet") == answers
