"""Prompt templates: text with ``{field}`` placeholders; ``{{`` and ``}}`` stand for the braces themselves."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD_NAME = re.compile(r"[^\W\d]\w*")


class TemplateError(ValueError):
    """A malformed prompt; ``position`` counts characters from 1."""

    def __init__(self, position: int, reason: str) -> None:
        self.position = position
        super().__init__(f"position {position}: {reason}")


@dataclass(frozen=True)
class Field:
    """A placeholder of a template."""

    name: str


def parse_template(prompt: str) -> tuple[str | Field, ...]:
    """Split a template into its literals and fields, in order; adjacent literals are joined, empty ones left out.

    Raises ``TemplateError`` at the first single brace or field name that is not an identifier.
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
                match.start() + 1, f"a single {token!r}; write {token * 2!r} for a brace, {{name}} for a field"
            )
        elif not _FIELD_NAME.fullmatch(name):
            raise TemplateError(
                match.start() + 1,
                f"{token!r} is not a field; a field name has letters, digits and underscores and does not begin with a"
                " digit (write '{{' for a brace)",
            )
        else:
            parts += [literal, Field(name)] if literal else [Field(name)]
            literal = ""
    literal += prompt[end:]
    return (*parts, literal) if literal else tuple(parts)


def fields_of(prompt: str) -> tuple[str, ...]:
    """The names of a template's fields, each once, in order of first use."""
    return tuple(dict.fromkeys(part.name for part in parse_template(prompt) if isinstance(part, Field)))


def field_text(value: object) -> str | None:
    """The value of a field as text, in training and in requests: strings unchanged, numbers and booleans as in JSON.

    None for everything else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return None
