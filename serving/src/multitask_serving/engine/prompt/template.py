"""Prompt templates: text with ``{field}`` placeholders; ``{{`` and ``}}`` stand for the braces themselves."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api import template
from multitask_api.bundle import PromptPiece
from multitask_api.template import Field
from multitask_serving.engine.errors import TemplateError

__all__ = ["Field", "answer_separator", "fields_of", "fields_of_pieces", "parse_template"]


def parse_template(prompt: str) -> tuple[str | Field, ...]:
    """`multitask_api.template.parse_template`. Raises this package's `TemplateError`."""
    try:
        return template.parse_template(prompt)
    except template.TemplateError as error:
        raise TemplateError(f"prompt, {error}") from error


def fields_of(prompt: str) -> tuple[str, ...]:
    """The names of a template's fields, each once, in order of first use."""
    return tuple(dict.fromkeys(part.name for part in parse_template(prompt) if isinstance(part, Field)))


def fields_of_pieces(pieces: Sequence[PromptPiece]) -> tuple[str, ...]:
    """`fields_of` for a compiled prompt."""
    return tuple(dict.fromkeys(piece.field for piece in pieces if piece.field is not None))


def answer_separator(prompt: str | Sequence[PromptPiece]) -> str:
    """The text between a prompt and its answer: empty if the prompt ends in white space, else one space.

    ``"…Urgency:"`` is followed by ``" high"``, which is one token of a byte-level vocabulary, and ``"…Urgency:\\n"`` by
    ``"high"``. A prompt that ends in a field is followed by a space, whatever the field's text. Takes a template or its
    compiled pieces, with the same result.
    """
    if isinstance(prompt, str):
        parts = parse_template(prompt)
        last = parts[-1] if parts and isinstance(parts[-1], str) else ""
    else:
        last = (prompt[-1].literal or "") if prompt else ""
    return "" if last[-1:].isspace() else " "
