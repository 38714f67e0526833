"""What a reader gives: a row as the file has it, or a problem in its place; and the checks that all formats share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before validation; ``line`` counts from 1. In parquet, in a JSON list and on the hub it counts rows."""

    file: str
    line: int
    values: Mapping[str, object]
    columns: tuple[str, ...] | None = None
    """The names of all fields, where ``values`` has only those that are used."""


@dataclass(frozen=True, slots=True)
class ReadProblem:
    """What could not be read: one row, or the rest of the file if it is ``fatal``."""

    file: str
    line: int | None
    reason: str
    fatal: bool = False


_ESCAPED = re.compile("[\udc80-\udcff]")
"""A byte that is no UTF-8, as ``surrogateescape`` decodes it."""

UsedFields = Collection[str] | None
"""The fields that a task reads, None for all: what is wrong with another field is no problem of the row."""


def is_used(field: str, fields: UsedFields) -> bool:
    """Whether a problem in ``field`` counts."""
    return fields is None or field in fields


def repeated_fields(names: Iterable[str], fields: UsedFields) -> str | None:
    """The used names that occur more than once, quoted, for a message; None if each occurs once."""
    counts = Counter(names)
    return ", ".join(repr(name) for name in counts if counts[name] > 1 and is_used(name, fields)) or None


def has_escaped(text: str) -> bool:
    """Whether a text that was decoded with ``surrogateescape`` is not all UTF-8."""
    return _ESCAPED.search(text) is not None


def undecodable(values: Mapping[str, object], fields: UsedFields) -> str | None:
    """Why a row that was decoded with ``surrogateescape`` is bad; None if its used fields are UTF-8."""
    for name, value in values.items():
        texts = value if isinstance(value, list) else [value]
        found = (_ESCAPED.search(text) for text in texts if isinstance(text, str))
        escaped = next(filter(None, found), None) if is_used(name, fields) else None
        if escaped is not None:
            return not_utf8(ord(escaped[0]) - 0xDC00, name)
    return None


def not_utf8(byte: int, field: str | None = None) -> str:
    """The reason for a byte that is no UTF-8."""
    where = f" in {field!r}" if field else ""
    return f"not UTF-8 (byte 0x{byte:02x}{where}); save the file as UTF-8"
