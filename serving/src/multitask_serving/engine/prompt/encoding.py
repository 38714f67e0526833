"""Renders, truncates and encodes prompts and answers, for training and serving.

No other module encodes rows or requests. Chat templates are compiled to pieces in ``chat.py``, and the trainer's
``batching/corpus.py`` tokenizes pre-training text.

Template pieces, fields and answer are tokenised *separately*. Tokenising the whole string would join characters across
their boundaries, and then neither a cached template prefix nor label ids computed in advance would fit. Fields, labels
and targets are plain text: a special token spelled out in one of them gets the ids of its characters. The template's
own literals may contain special tokens.

These functions switch the tokenizer's special-token setting, so a tokenizer must not be shared between threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multitask_api.bundle import LabelIds, PromptPiece
from multitask_serving.engine.errors import EmptyPrompt, InvalidField, LabelError, MissingField, PromptTooLong
from multitask_serving.engine.prompt.shortening import GROWTH, longest_token, shorten
from multitask_serving.engine.prompt.template import Field, answer_separator, fields_of_pieces, parse_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Template = str | Sequence[PromptPiece]
"""A prompt's template, as text or compiled to pieces."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt's token ids, BOS included, and whether a field was cut to fit the maximum length."""

    ids: list[int]
    truncated: bool


def compile_pieces(prompt: str, tokenizer: PreTrainedTokenizerFast) -> tuple[PromptPiece, ...]:
    """Compile a template: each literal tokenised on its own, without BOS or EOS. Raises `TemplateError`."""
    return tuple(
        PromptPiece(field=part.name)
        if isinstance(part, Field)
        else PromptPiece(literal=part, ids=tuple(_encode(tokenizer, [part], plain=False)[0]))
        for part in parse_template(prompt)
    )


def encode_literals(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Each text's ids as part of a template: a special token in it is itself. Without BOS or EOS."""
    return _encode(tokenizer, list(texts), plain=False)


def bos_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids that this tokenizer puts before a text: its BOS, or nothing."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a", add_special_tokens=True).input_ids
    return (bos,) if bos is not None and ids[:1] == [bos] else ()


def prompt_budget(max_length: int, answer_tokens: int) -> int:
    """The most tokens a prompt may have: ``max_length`` less ``answer_tokens`` and EOS.

    ``answer_tokens`` is the length of the longest label, or max_new_tokens. Raises `PromptTooLong` if nothing is left.
    """
    budget = max_length - answer_tokens - 1
    if budget < 1:
        raise PromptTooLong(
            f"an answer of {answer_tokens} tokens and EOS leave no room for a prompt within {max_length} tokens. "
            "Raise training.maxLength or lower generation.maxNewTokens"
        )
    return budget


def encode_target(tokenizer: PreTrainedTokenizerFast, text: str, prompt: Template) -> tuple[int, ...]:
    """An answer's ids as they follow ``prompt`` (see `answer_separator`), without EOS."""
    return tuple(_encode(tokenizer, [answer_separator(prompt) + text], plain=True)[0])


def encode_label(tokenizer: PreTrainedTokenizerFast, label: str, prompt: Template) -> tuple[int, ...]:
    """A label's ids; the same as `encode_target`."""
    return encode_target(tokenizer, label, prompt)


def compile_labels(labels: Sequence[str], tokenizer: PreTrainedTokenizerFast, prompt: Template) -> tuple[LabelIds, ...]:
    """The labels with their ids. Raises `LabelError` if one is empty or two have the same ids."""
    labels_by_ids: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = encode_label(tokenizer, label, prompt)
        if not label.strip() or not ids:
            raise LabelError(f"label {label!r} has no text. Give every label at least one visible character")
        if ids in labels_by_ids:
            raise LabelError(
                f"labels {labels_by_ids[ids]!r} and {label!r} have the same token ids {list(ids)}. Rename one of them"
            )
        labels_by_ids[ids] = label
    return tuple(LabelIds(label=label, ids=ids) for ids, label in labels_by_ids.items())


def decode_answer(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], prompt: Template) -> str:
    """An answer's text: the inverse of `encode_target`. EOS and other special tokens are skipped."""
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
    """Fill in and encode a compiled prompt. To fit ``max_tokens``, the longest fields are cut, never the template.

    Raises `MissingField`, `InvalidField`, `PromptTooLong` or `EmptyPrompt`. Fields the prompt does not use are ignored.
    """
    [prompt] = encode_prompts([(pieces, fields, max_tokens, bos)], tokenizer)
    return prompt


def encode_prompts(
    requests: Sequence[tuple[Sequence[PromptPiece], Mapping[str, str], int, Sequence[int]]],
    tokenizer: PreTrainedTokenizerFast,
) -> list[EncodedPrompt]:
    """`encode_prompt` for many ``(pieces, fields, max_tokens, bos)``, with one call of the tokenizer."""
    texts = [_with_leads(pieces, field_texts(pieces, fields)) for pieces, fields, _, _ in requests]
    limits = [max_tokens + 1 for (_, _, max_tokens, _), row in zip(requests, texts, strict=True) for _ in row]
    encoded = iter(_encode_beginnings(tokenizer, [text for row in texts for text in row], limits))
    return [
        _fill_pieces(pieces, [next(encoded) for _ in row], max_tokens, bos)
        for (pieces, _, max_tokens, bos), row in zip(requests, texts, strict=True)
    ]


def field_texts(pieces: Sequence[PromptPiece], fields: Mapping[str, str]) -> list[str]:
    """The text of each placeholder, in order. Raises `MissingField` or `InvalidField`."""
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


def _with_leads(pieces: Sequence[PromptPiece], texts: Sequence[str]) -> list[str]:
    """The texts of the fields as they are tokenised: behind the white space that belongs to a field's piece."""
    leads = (piece.lead or "" for piece in pieces if piece.field is not None)
    return [lead + text for lead, text in zip(leads, texts, strict=True)]


def _fill_pieces(
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
    kept = _truncated_lengths(lengths, room) if truncated else lengths
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


def _truncated_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """Each field's length after cutting: min(n, c), with the largest cap c for which Σ min(n, c) ≤ room.

    Tokens left over go one each to the first fields that were cut.
    """
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


def _encode_beginnings(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], limits: Sequence[int]
) -> list[list[int]]:
    """The ids of each text; of long ones only the first, but at least as many as its limit."""
    longest = longest_token(tokenizer)
    beginnings = [shorten(text, limit, longest) for text, limit in zip(texts, limits, strict=True)]
    encoded = _encode(tokenizer, beginnings, plain=True)
    for row, text in enumerate(texts):
        tokens = limits[row]
        while len(beginnings[row]) < len(text) and len(encoded[row]) < limits[row]:
            tokens *= GROWTH
            beginnings[row] = shorten(text, tokens, longest)
            [encoded[row]] = _encode(tokenizer, [beginnings[row]], plain=True)
    return encoded


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], *, plain: bool) -> list[list[int]]:
    # The backend is called directly: transformers' wrapper takes longer than tokenising a short field.
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
