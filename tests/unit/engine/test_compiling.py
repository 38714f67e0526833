"""Prompts in the format of their base model: the date of a chat template, the prefix of a tokenizer, joined seams."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from multitask_api.bundle import PromptFormat, PromptPiece
from multitask_serving.engine.prompt.compiling import compile_prompt, join_seams, prefix_ids, prompt_format_of
from multitask_serving.engine.prompt.encoding import compile_pieces, encode_prompt
from support.engine_builders import TEXT, tokenizer

TOK = tokenizer()
JOINED = PromptFormat(seams="Joined")

DATED = "Today Date: {{ strftime_now('%d %b %Y') }}\n{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"
# As Llama 3 has it: a date that a caller may set, else today's, else a fixed one.
DEFAULTED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{{ date_string }}\n{% for m in messages %}{{ m.content }}{% endfor %}"
)
WEEKDAY = "{{ strftime_now('%A') }}{% for m in messages %}{{ m.content }}{% endfor %}"
PADDED = "{% macro day() %}{{ strftime_now('%-d/%-m/%Y') }}{% endmacro %}{{ day() }}{{ messages[0].content }}"
CLOCK = "{{ strftime_now('%H:%M') }} {{ messages[0].content }}"
SECONDS = "{{ strftime_now('%s') }} {{ messages[0].content }}"
FRACTIONS = "{{ strftime_now('%Y-%m-%dT%H:%M:%S.%f') }} {{ messages[0].content }}"
PERCENT = "{{ strftime_now('100%% %d, %%d') }} {{ messages[0].content }}"
COMPARED = "{{ 'new' if strftime_now('%Y')|int >= 2027 else 'old' }} {{ messages[0].content }}"
LONG_TALKS = "{% if messages|length > 5 %}{{ strftime_now('%Y') }}{% endif %}{{ messages[0].content }}"
UNDATED = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"
FAILING = "{{ raise_exception('only with a system message') }}"


def with_template(template: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=TOK.backend_tokenizer, eos_token="<eos>", chat_template=template)


@pytest.mark.parametrize(
    ("template", "frozen"),
    [
        (DATED, "2026-11-27"),
        (DEFAULTED, "2026-11-27"),
        (WEEKDAY, "2026-11-27"),
        (PADDED, "2026-11-27"),
        (CLOCK, "2026-11-27"),
        (SECONDS, "2026-11-27"),
        (FRACTIONS, "2026-11-27"),
        (PERCENT, "2026-11-27"),
        (COMPARED, "2026-11-27"),
        (LONG_TALKS, None),
        (UNDATED, None),
        (FAILING, None),
        (None, None),
    ],
)
def test_the_date_is_frozen_for_a_template_that_asks_for_it(template: str | None, frozen: str | None) -> None:
    assert prompt_format_of(with_template(template), today=date(2026, 11, 27)).chat_date == frozen


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (DATED, "27 Nov 2026"),
        (DEFAULTED, "27 Nov 2026"),
        (WEEKDAY, "Friday"),
        (PADDED, "27/11/2026"),
        (CLOCK, "00:00 How"),
        (SECONDS, "1795737600 How"),
        (FRACTIONS, "2026-11-27T00:00:00.000000 How"),
        (PERCENT, "100% 27, %d How"),
        (COMPARED, "old How"),
    ],
)
def test_a_frozen_date_gives_the_same_ids_on_every_day(template: str, text: str, monkeypatch) -> None:
    chat = with_template(template)
    fixed = prompt_format_of(chat, today=date(2026, 11, 27))
    pieces = {}
    for today in (datetime(2027, 3, 13, 9, 41, 7, 125), datetime(2030, 1, 1, 23, 5)):

        class Clock:
            @staticmethod
            def now(_tz: object = None, today: datetime = today) -> datetime:
                return today

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        pieces[today] = compile_prompt("How urgent?\n{text}", chat, fixed, chat=True)
        assert text not in str(compile_prompt("How urgent?\n{text}", chat, PromptFormat(), chat=True))
    first, second = pieces.values()
    assert first == second
    assert text in str(first)


@pytest.mark.parametrize(
    ("added", "prefix"),
    [
        ("$A", ()),
        ("<bos> $A", (1,)),
        ("<bos> $A <eos>", (1,)),
        ("$A <eos>", ()),
        ("<pad> <bos> $A", (0, 1)),  # as ChatGLM's [gMASK] <sop>
        ("<eos> <eos> <pad> $A", (2, 2, 0)),
    ],
)
def test_all_that_a_tokenizer_puts_before_a_text_is_kept(added: str, prefix: tuple[int, ...]) -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(TOK.backend_tokenizer.to_str()))
    special = [(name, made.convert_tokens_to_ids(name)) for name in ("<pad>", "<bos>", "<eos>")]
    made.backend_tokenizer.post_processor = TemplateProcessing(single=added, special_tokens=special)
    assert prefix_ids(made) == prefix
    fixed = prompt_format_of(made)
    assert compile_prompt("{a}:", made, fixed, chat=False)[1] == prefix


def test_a_base_of_an_older_release_is_encoded_as_it_was() -> None:
    prompt = "How urgent is {text} now?"
    assert compile_prompt(prompt, TOK, PromptFormat(), chat=False) == (compile_pieces(prompt, TOK), ())
    piece = PromptPiece.model_validate_json('{"field": "text"}')
    assert piece.lead is None
    assert "lead" not in piece.to_json()


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama 2: no pre-tokenizer, a space before every text, spaces as ▁."""
    backend = Tokenizer(models.BPE(byte_fallback=False, unk_token="?"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Metaspace()
    words = sorted({word for line in TEXT for word in line.split()})
    backend.train_from_iterator(words, trainers.BpeTrainer(vocab_size=300, special_tokens=["?"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


def words_only() -> PreTrainedTokenizerFast:
    """Words of white space; no token has a space."""
    backend = Tokenizer(models.WordLevel({"?": 0, "is": 1, "this": 2, "urgent": 3}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


def across_words() -> PreTrainedTokenizerFast:
    """Tokens of several words, so that what stands before a space matters too."""
    backend = Tokenizer(models.BPE())
    backend.train_from_iterator(
        [*TEXT, *(f"urgent is {word} " * 9 for word in ("the", "a", "1"))],
        trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


FIELDS = ("this message", "is", "Ünique", "42", " padded", "\n", "顾客", "(urgent)", "😀", "it's")


@pytest.mark.parametrize(
    ("make", "before"),
    [
        *((tokenizer, before) for before in ("urgent is ", "urgent is:  ", "x\t", "Second:\n", "urgent(")),
        *((metaspace, before) for before in ("urgent is ", "urgent is:  ")),
        *((words_only, before) for before in ("urgent is ", "x\t", "Second:\n")),
    ],
)
def test_a_field_after_white_space_has_the_ids_of_running_text(make, before: str) -> None:
    made = make()
    pieces = compile_prompt(f"{before}{{text}}", made, JOINED, chat=False)[0]
    for text in FIELDS:
        whole = made(before + text, add_special_tokens=False).input_ids
        assert encode_prompt(pieces, {"text": text}, made, max_tokens=99).ids == whole


@pytest.mark.parametrize(
    ("make", "literal", "lead"),
    [
        (tokenizer, "urgent is", " "),
        (metaspace, "urgent is", None),  # it puts a space before every text itself
        (words_only, "urgent is", " "),  # all the same to it
        (across_words, "urgent is ", None),
    ],
)
def test_where_a_seam_is_joined(make, literal: str, lead: str | None) -> None:
    pieces = join_seams(compile_pieces("urgent is {a}", made := make()), made)
    assert [(piece.literal, piece.field, piece.lead) for piece in pieces] == [(literal, None, None), (None, "a", lead)]


def test_white_space_between_two_fields_belongs_to_the_second() -> None:
    pieces = join_seams(compile_pieces("{a} {b}\n{c}", TOK), TOK)
    assert [(piece.literal, piece.field, piece.lead) for piece in pieces] == [
        (None, "a", None),
        (None, "b", " "),
        ("\n", None, None),
        (None, "c", None),
    ]
    ids = encode_prompt(pieces, {"a": "urgent", "b": "this", "c": "x"}, TOK, max_tokens=50).ids
    assert ids == TOK("urgent this\nx", add_special_tokens=False).input_ids


def test_the_literal_has_the_same_ids_whatever_the_field() -> None:
    pieces = join_seams(compile_pieces("How urgent is {text}", TOK), TOK)
    head = list(pieces[0].ids or ())
    for text in FIELDS:
        assert encode_prompt(pieces, {"text": text}, TOK, max_tokens=99).ids[: len(head)] == head


def test_a_cut_field_keeps_its_head() -> None:
    pieces = join_seams(compile_pieces("is {text}:", TOK), TOK)
    whole = encode_prompt(pieces, {"text": "0123456789"}, TOK, max_tokens=99)
    cut = encode_prompt(pieces, {"text": "0123456789"}, TOK, max_tokens=len(whole.ids) - 4)
    assert TOK.decode(cut.ids) == "is 012345:"
    assert (whole.truncated, cut.truncated) == (False, True)
