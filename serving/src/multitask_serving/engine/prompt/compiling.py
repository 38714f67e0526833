"""From a task's prompt to pieces with token ids, in the format that was fixed when the base model was made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from multitask_api.bundle import PromptFormat, PromptPiece
from multitask_serving.engine.prompt.chat import asks_for_time, compile_chat_pieces
from multitask_serving.engine.prompt.encoding import bos_ids, compile_pieces, encode_literals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SAMPLES = (
    "the message", "The", "a", "I'm", "don't", "1 and 2", "2024", "über", "Ärger", "привет", "हिन्दी", "请帮我",
    "今日は", "😀 ok", "$5.20", "(x)", '"q"', "...", "-1", "#tag", "<b>", "http://a.b/c", " two", "\nline", "\ttab",
    "_a",
)  # fmt: skip
"""Beginnings of fields: what a tokenizer may join with the space before it in different ways."""


def prompt_format_of(tokenizer: PreTrainedTokenizerFast, *, today: date | None = None) -> PromptFormat:
    """The format for a new base model; ``today`` (UTC now) is frozen if the chat template asks for date or time."""
    asks = bool(tokenizer.chat_template) and asks_for_time(tokenizer)
    day = today or datetime.now(UTC).date()
    return PromptFormat(chat_date=day.isoformat() if asks else None, prefix=prefix_ids(tokenizer), seams="Joined")


def prefix_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before a text, such as BOS, or ChatGLM's ``[gMASK]<sop>``."""
    encoded = tokenizer("a", add_special_tokens=True, return_special_tokens_mask=True)
    special: list[int] = encoded["special_tokens_mask"]
    count = special.index(0) if 0 in special else 0
    return tuple(encoded["input_ids"][:count])


def compile_prompt(
    prompt: str, tokenizer: PreTrainedTokenizerFast, prompt_format: PromptFormat, *, chat: bool
) -> tuple[tuple[PromptPiece, ...], tuple[int, ...]]:
    """The pieces of a prompt, and the ids before the first one; a chat template (``chat``) brings its own.

    Raises `TemplateError`.
    """
    prefix: tuple[int, ...] = ()
    if chat:
        day = date.fromisoformat(prompt_format.chat_date) if prompt_format.chat_date else None
        pieces = compile_chat_pieces(prompt, tokenizer, today=day)
    else:
        pieces = compile_pieces(prompt, tokenizer)
        prefix = bos_ids(tokenizer) if prompt_format.prefix is None else prompt_format.prefix
    return (join_seams(pieces, tokenizer) if prompt_format.seams == "Joined" else pieces), prefix


def join_seams(pieces: Sequence[PromptPiece], tokenizer: PreTrainedTokenizerFast) -> tuple[PromptPiece, ...]:
    """Give a field the white space before it where the tokenizer would join the two, ``Ġthe`` and not ``Ġ the``.

    Tried on a list of texts: only where all of them then have the ids that the tokenizer gives to literal and text
    together. The literal keeps ids of its own, whatever the field, so what a server keeps of it stays valid.
    """
    joined: list[PromptPiece] = []
    for piece in pieces:
        before = joined[-1].literal if joined else None
        lead = _lead(before, tokenizer) if piece.field is not None and before and before[-1].isspace() else None
        if lead is None or before is None:
            joined.append(piece)
            continue
        del joined[-1]
        if before[:-1]:
            joined.append(_literal(before[:-1], tokenizer))
        joined.append(PromptPiece(field=piece.field, lead=lead or None))
    return tuple(joined)


def _lead(literal: str, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """What goes before a field's text if the last character of ``literal`` is taken away; None: it stays.

    Some tokenizers begin every text with a space of their own; for these it is nothing.
    """
    whole = encode_literals(tokenizer, [literal + sample for sample in _SAMPLES])

    def is_exact(kept: str, lead: str) -> bool:
        (head, *tails) = encode_literals(tokenizer, [kept, *(lead + sample for sample in _SAMPLES)])
        return [(head if kept else []) + tail for tail in tails] == whole

    if literal[-1] != " " and is_exact(literal, ""):
        return None  # a line break, mostly: it stays with the template, which is never cut
    return next((lead for lead in (literal[-1], "") if is_exact(literal[:-1], lead)), None)


def _literal(text: str, tokenizer: PreTrainedTokenizerFast) -> PromptPiece:
    return PromptPiece(literal=text, ids=tuple(encode_literals(tokenizer, [text])[0]))
