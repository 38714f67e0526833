"""Long texts are cut before they are tokenised, and the ids that are read stay the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from multitask_serving.engine.prompt import encoding
from multitask_serving.engine.prompt.encoding import compile_pieces, encode_prompt
from multitask_serving.engine.prompt.shortening import MARGIN, longest_token, shorten
from support.engine_builders import tokenizer

WORDS = ["the", "printer", "is", "on", "fire", "überfällig", "请帮我", "😀😀", "a1b2", "don't", "\n", "\t", "  "]


def trained(
    model: models.Model, trainer: trainers.Trainer, before: pre_tokenizers.PreTokenizer
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = before
    backend.normalizer = normalizers.Strip()  # it drops characters
    draw = random.Random(1)
    backend.train_from_iterator([" ".join(draw.choices(WORDS, k=20)) for _ in range(200)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


TOKENIZERS = {
    "bytes": tokenizer(),
    "words": trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False),
        pre_tokenizers.Whitespace(),
    ),
    "unigram": trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=200, unk_token="[UNK]", special_tokens=["[UNK]"], show_progress=False),
        pre_tokenizers.Metaspace(),
    ),
}

TEXTS = [
    ("words", "the printer is on fire, and überfällig 请帮我 " * 900),
    ("no white space", "printer" * 6000),
    ("one character", "a" * 40_000),
    ("white space alone", " \n" * 20_000),
    ("white space, and then a word", " " * 40_000 + "fire"),
    ("unknown words", "xyzzy" * 100 + " " + "ÿ" * 40_000 + " fire" * 500),
    ("emoji", "😀 " * 20_000),
]


def ids(name: str, text: str) -> list[int]:
    made = TOKENIZERS[name]
    made.backend_tokenizer.encode_special_tokens = True
    return made.backend_tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("sentence", "text"), TEXTS, ids=[row[0] for row in TEXTS])
@pytest.mark.parametrize("max_tokens", [1, 7, 64])
def test_the_ids_are_those_of_the_whole_text(name: str, sentence: str, text: str, max_tokens: int) -> None:
    made = TOKENIZERS[name]
    whole = ids(name, text)
    prompt = (
        encode_prompt(compile_pieces("{text}", made), {"text": text}, made, max_tokens=max_tokens) if whole else None
    )
    if prompt is not None:
        assert (prompt.ids, prompt.truncated) == (whole[:max_tokens], len(whole) > max_tokens)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS) | st.text(max_size=12), min_size=1, max_size=60).map(" ".join),
    st.integers(1, 60),
    st.sampled_from(sorted(TOKENIZERS)),
)
def test_random_texts_repeated(part: str, max_tokens: int, name: str) -> None:
    text = f"{part} " * (1 + 3000 // (len(part) + 1)) * 20
    made = TOKENIZERS[name]
    whole = ids(name, text)
    if whole:
        prompt = encode_prompt(compile_pieces("{text}", made), {"text": text}, made, max_tokens=max_tokens)
        assert prompt.ids == whole[:max_tokens]


def test_work_follows_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenised: list[int] = []
    real = encoding._encode

    def recording(made: PreTrainedTokenizerFast, texts: list[str], *, plain: bool) -> list[list[int]]:
        tokenised.extend(map(len, texts))
        return real(made, texts, plain=plain)

    monkeypatch.setattr(encoding, "_encode", recording)
    made = TOKENIZERS["bytes"]
    pieces = compile_pieces("{text}{more}", made)
    tokenised.clear()
    encode_prompt(pieces, {"text": "ab " * 1_290_000, "more": "short"}, made, max_tokens=64)
    assert max(tokenised) <= (64 + 1 + MARGIN) * longest_token(made)


@pytest.mark.parametrize(
    ("start", "share"),
    [(" " * 40_000, 0.05), ("ÿ" * 40_000 + " ", 0.2), ("", 0.01)],
    ids=["dropped characters", "an unknown word that is one token", "nothing"],
)
def test_a_text_that_collapses_is_read_as_far_as_it_has_to_be(
    monkeypatch: pytest.MonkeyPatch, start: str, share: float
) -> None:
    tokenised: list[int] = []
    real = encoding._encode

    def recording(made: PreTrainedTokenizerFast, texts: list[str], *, plain: bool) -> list[list[int]]:
        tokenised.extend(map(len, texts))
        return real(made, texts, plain=plain)

    made = TOKENIZERS["unigram"]
    text = start + "the printer is on fire " * 100_000
    whole = ids("unigram", text[:300_000])[:64]
    pieces = compile_pieces("{text}", made)
    monkeypatch.setattr(encoding, "_encode", recording)
    assert encode_prompt(pieces, {"text": text}, made, max_tokens=64).ids == whole
    assert sum(tokenised) < share * len(text)


def test_a_cut_is_at_white_space_where_there_is_some() -> None:
    assert shorten("word " * 1000, 4, 5) == ("word " * 1000)[: (4 + MARGIN) * 5 - 1]
    assert len(shorten("w" * 1000, 4, 5)) == (4 + MARGIN) * 5
    assert shorten("short", 4, 5) == "short"
