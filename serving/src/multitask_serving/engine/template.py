"""Prompt templates: text with ``{field}`` placeholders; ``{{`` and ``}}`` stand for the braces themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from multitask_api.bundle import PromptPiece
from multitask_serving.engine.errors import TemplateError

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD_NAME = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Field:
    """A placeholder of a template."""

    name: str


def parse_template(prompt: str) -> tuple[str | Field, ...]:
    """Split a template into its literals and fields, in order; neighbouring literals are joined, empty ones left out.

    Raises `TemplateError` with the position (counted from 1) of a stray brace or of a name that is not an identifier.
    """
    parts: list[str | Field] = []
    literal = ""
    end = 0
    for match in _TOKEN.finditer(prompt):
        literal += prompt[end : match.start()]
        end = match.end()
        token, name = match.group(), match.group(1)
        if token in ("{{", "}}"):
            literal += token[0]
        elif name is None:
            raise TemplateError(
                f"prompt, position {match.start() + 1}: a lone {token!r}. Write {token * 2!r} for the brace itself"
            )
        elif not _FIELD_NAME.fullmatch(name):
            raise TemplateError(
                f"prompt, position {match.start() + 1}: {token!r} does not name a field. "
                "A name is letters, digits and underscores and does not begin with a digit; write '{{' for a brace"
            )
        else:
            parts += [literal, Field(name)] if literal else [Field(name)]
            literal = ""
    literal += prompt[end:]
    return (*parts, literal) if literal else tuple(parts)


def fields_of(prompt: str) -> tuple[str, ...]:
    """The names of a template's fields, each once, in order of first use."""
    return tuple(dict.fromkeys(part.name for part in parse_template(prompt) if isinstance(part, Field)))


def fields_of_pieces(pieces: Sequence[PromptPiece]) -> tuple[str, ...]:
    """The same as `fields_of`, of a compiled prompt."""
    return tuple(dict.fromkeys(piece.field for piece in pieces if piece.field is not None))


def answer_separator(prompt: str | Sequence[PromptPiece]) -> str:
    """What stands between a prompt and its answer: nothing where the prompt ends in white space, else one space.

    ``"…Urgency:"`` is followed by ``" high"``, the token that a byte-level vocabulary has for the word in running text,
    and ``"…Urgency:\\n"`` by ``"high"``. A prompt that ends in a field is followed by a space, whatever the field
    holds. Takes a template or its compiled pieces; both give the same answer.
    """
    if isinstance(prompt, str):
        parts = parse_template(prompt)
        last = parts[-1] if parts and isinstance(parts[-1], str) else ""
    else:
        last = (prompt[-1].literal or "") if prompt else ""
    return "" if last[-1:].isspace() else " "
