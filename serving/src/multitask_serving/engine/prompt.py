"""Renders, truncates and encodes, for training and serving alike: no other module turns text into ids.

Template pieces, fields and answer are tokenised *separately*: whole-string tokenisation joins characters across the
seams and differs where a piece ends in a space, and then neither a cached template prefix nor label ids computed ahead
of the request would fit. Field, label and target texts are plain text: a special token spelled out in one of them gets
the ids of its characters. The template's own literals may hold special tokens.

The tokenizer's special-token setting is switched as needed, so one tokenizer belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multitask_api.bundle import LabelIds, PromptPiece
from multitask_serving.engine.chat import compile_chat_pieces
from multitask_serving.engine.errors import EmptyPrompt, InvalidField, LabelError, MissingField, PromptTooLong
from multitask_serving.engine.template import Field, answer_separator, fields_of, fields_of_pieces, parse_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "EncodedPrompt",
    "Field",
    "Template",
    "answer_separator",
    "bos_of",
    "compile_chat_pieces",
    "compile_labels",
    "compile_pieces",
    "decode_answer",
    "encode_label",
    "encode_prompt",
    "encode_prompts",
    "encode_target",
    "fields_of",
    "fields_of_pieces",
    "parse_template",
    "prompt_budget",
]

Template = str | Sequence[PromptPiece]
"""A prompt as its author wrote it, or compiled."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt's token ids, BOS included; ``truncated`` when a field was cut to make it fit."""

    ids: list[int]
    truncated: bool


def compile_pieces(prompt: str, tokenizer: PreTrainedTokenizerFast) -> tuple[PromptPiece, ...]:
    """A template with its literals tokenised one by one, without the tokenizer's own BOS or EOS."""
    return tuple(
        PromptPiece(field=part.name)
        if isinstance(part, Field)
        else PromptPiece(literal=part, ids=tuple(_encode(tokenizer, [part], plain=False)[0]))
        for part in parse_template(prompt)
    )


def bos_of(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids this tokenizer puts before a text: its BOS, or nothing."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a", add_special_tokens=True).input_ids
    return (bos,) if bos is not None and ids[:1] == [bos] else ()


def prompt_budget(max_length: int, answer_tokens: int) -> int:
    """Tokens a prompt may have: ``max_length`` less the longest answer (longest label, or max_new_tokens) and EOS."""
    budget = max_length - answer_tokens - 1
    if budget < 1:
        raise PromptTooLong(
            f"an answer of {answer_tokens} tokens and its end leave no room for a prompt in {max_length} tokens. "
            "Raise training.maxLength or lower generation.maxNewTokens"
        )
    return budget


def encode_target(tokenizer: PreTrainedTokenizerFast, text: str, prompt: Template) -> tuple[int, ...]:
    """An answer's ids as they follow ``prompt`` (see `answer_separator`), EOS not included."""
    return tuple(_encode(tokenizer, [answer_separator(prompt) + text], plain=True)[0])


def encode_label(tokenizer: PreTrainedTokenizerFast, label: str, prompt: Template) -> tuple[int, ...]:
    """A label's ids: a label is an answer like any other."""
    return encode_target(tokenizer, label, prompt)


def compile_labels(labels: Sequence[str], tokenizer: PreTrainedTokenizerFast, prompt: Template) -> tuple[LabelIds, ...]:
    """All labels with their ids. Raises `LabelError` if one is empty or two have the same ids."""
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = encode_label(tokenizer, label, prompt)
        if not label.strip() or not ids:
            raise LabelError(f"label {label!r} has no text. Give every label at least one visible character")
        if ids in seen:
            raise LabelError(
                f"labels {seen[ids]!r} and {label!r} have the same token ids {list(ids)}: the model cannot tell them "
                "apart. Rename one of them"
            )
        seen[ids] = label
    return tuple(LabelIds(label=label, ids=ids) for ids, label in seen.items())


def decode_answer(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], prompt: Template) -> str:
    """The text of an answer: the inverse of `encode_target`. EOS and other special tokens leave no trace."""
    text: str = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
    return text.removeprefix(answer_separator(prompt))


def encode_prompt(
    pieces: Sequence[PromptPiece],
    fields: Mapping[str, str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_tokens: int,
    bos: Sequence[int] = (),
) -> EncodedPrompt:
    """Fill a compiled prompt. Fields are cut to fit ``max_tokens``, the longest first; the template never is.

    Raises `MissingField`, `InvalidField`, `PromptTooLong` or `EmptyPrompt`. Fields the prompt does not use are ignored.
    """
    ids = _encode(tokenizer, field_texts(pieces, fields), plain=True)
    return _assemble(pieces, ids, max_tokens, bos)


def encode_prompts(
    requests: Sequence[tuple[Sequence[PromptPiece], Mapping[str, str], int, Sequence[int]]],
    tokenizer: PreTrainedTokenizerFast,
) -> list[EncodedPrompt]:
    """`encode_prompt` for many ``(pieces, fields, max_tokens, bos)`` with one call of the tokenizer."""
    texts = [field_texts(pieces, fields) for pieces, fields, _, _ in requests]
    encoded = iter(_encode(tokenizer, [text for row in texts for text in row], plain=True))
    return [
        _assemble(pieces, [next(encoded) for _ in row], max_tokens, bos)
        for (pieces, _, max_tokens, bos), row in zip(requests, texts, strict=True)
    ]


def field_texts(pieces: Sequence[PromptPiece], fields: Mapping[str, str]) -> list[str]:
    """The text of each placeholder in order. Raises `MissingField` or `InvalidField`."""
    texts = []
    for piece in pieces:
        if piece.field is None:
            continue
        text: object = fields.get(piece.field)
        if text is None:
            raise MissingField(piece.field, fields_of_pieces(pieces), fields)
        if not isinstance(text, str):
            raise InvalidField(piece.field, f"of type {type(text).__name__}")
        texts.append(text)
    return texts


def _assemble(
    pieces: Sequence[PromptPiece], field_ids: list[list[int]], max_tokens: int, bos: Sequence[int]
) -> EncodedPrompt:
    fixed = len(bos) + sum(len(piece.ids or ()) for piece in pieces)
    room = max_tokens - fixed
    if room < 0:
        raise PromptTooLong(
            f"the prompt's own text has {fixed} tokens and at most {max_tokens} fit. "
            "Shorten the prompt or raise training.maxLength"
        )
    lengths = [len(ids) for ids in field_ids]
    truncated = sum(lengths) > room
    kept = _fair_lengths(lengths, room) if truncated else lengths
    out = list(bos)
    cut = zip(field_ids, kept, strict=True)
    for piece in pieces:
        if piece.field is None:
            out += piece.ids or ()
        else:
            ids, length = next(cut)
            out += ids[:length]
    if not out:
        raise EmptyPrompt("the prompt is empty: no template text and only empty fields. Send some text")
    return EncodedPrompt(out, truncated)


def _fair_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """The largest cap c with Σ min(n, c) ≤ room; tokens left over go one by one to the first fields that were cut."""
    cap, left, waiting = 0, room, len(lengths)
    for length in sorted(lengths):
        cap = left // waiting
        if length > cap:
            break
        left -= length
        waiting -= 1
    kept = [min(length, cap) for length in lengths]
    left = room - sum(kept)
    for index, length in enumerate(lengths):
        extra = min(1, left, length - kept[index])
        kept[index] += extra
        left -= extra
    return kept


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], *, plain: bool) -> list[list[int]]:
    # The backend is called directly: transformers' own call costs more than the tokenisation of a short field.
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens != plain:
        backend.encode_special_tokens = plain
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
