"""Rows from JSON: one object a line, or one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import IO

from multitask_trainer.data.raw_rows import (
    RawRow,
    ReadProblem,
    UsedFields,
    has_escaped,
    is_used,
    not_utf8,
    repeated_fields,
    undecodable,
)

_BROKEN = object()
"""In the place of a value, for a text that is not JSON."""

_KINDS = {list: "a list", str: "a string", type(None): "null"}


class _RepeatedKeys(dict[str, object]):
    """An object in which a key occurs more than once; the last value counts, as for every JSON reader."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def read_json(name: str, content: IO[bytes], fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    """The rows of ``.jsonl``, ``.ndjson`` and ``.json`` files.

    A file that begins with a list of objects, or with no whole JSON value in its first line, is read as one document.
    """
    numbered: Iterator[tuple[int, bytes]] = enumerate(content, start=1)
    for number, data in numbered:
        line = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
        if not line.strip():
            continue
        text = line.decode(errors="surrogateescape")
        value = _parsed(text)
        if _holds_rows(value, fields):
            following = next(((at, more) for at, more in numbered if more.strip()), None)
            if following is None:  # one object is the whole file
                yield ReadProblem(name, None, _no_list(value), fatal=True)
                return
            numbered = chain([following], numbered)
        if not _may_be_document(text, value):
            yield from _read_lines(name, chain([(number, line)], numbered), fields)
            return
        rest = content.read()
        if value is not _BROKEN and not rest.strip():  # the whole document, on one line
            yield from _rows_of_document(name, text, value, fields)
            return
        yield from _read_document(name, b"\n" * (number - 1) + line + rest, fields)  # so that an error names its line
        return


def _may_be_document(line: str, value: object) -> bool:
    """Whether a file with this first line may be one JSON value: a list of objects, or an object on several lines."""
    if value is _BROKEN:
        return line.lstrip()[:1] in ("[", "{")
    return isinstance(value, list) and (not value or any(isinstance(item, dict) for item in value))


def _holds_rows(value: object, fields: UsedFields) -> bool:
    """Whether an object is no row, but has a list of rows in it."""
    if not isinstance(value, dict) or any(is_used(key, fields) for key in value if fields is not None):
        return False
    return any(isinstance(item, list) and item and isinstance(item[0], dict) for item in value.values())


def _read_lines(name: str, numbered: Iterator[tuple[int, bytes]], fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    for number, line in numbered:
        if not line.strip():
            continue
        byte = None
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            byte, text = error.object[error.start], line.decode(errors="surrogateescape")
        try:
            value = _parse(text)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({error}); every line must be one JSON object"
            yield ReadProblem(name, number, reason if byte is None else not_utf8(byte))
        else:
            yield _row(name, number, value, fields, is_utf8=byte is None)


def _read_document(name: str, data: bytes, fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    text = data.decode(errors="surrogateescape")
    try:
        document = _parse(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):  # JSON lines, the first of which is broken
            yield from _read_lines(name, enumerate(data.splitlines(), start=1), fields)
        else:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else None
            reason = f"not JSON ({error}); write one list of objects, or one object a line"
            yield ReadProblem(name, line, reason, fatal=True)
        return
    yield from _rows_of_document(name, text, document, fields)


def _rows_of_document(name: str, text: str, document: object, fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    if not isinstance(document, list):
        yield ReadProblem(name, None, _no_list(document), fatal=True)
        return
    is_utf8 = text.isascii() or not has_escaped(text)
    for number, value in enumerate(document, start=1):
        yield _row(name, number, value, fields, is_utf8=is_utf8)


def _row(name: str, number: int, value: object, fields: UsedFields, *, is_utf8: bool) -> RawRow | ReadProblem:
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "a single value")
        return ReadProblem(name, number, f'{kind}, not a JSON object; write it as {{"text": …}}')
    repeated = repeated_fields(value.names, fields) if isinstance(value, _RepeatedKeys) else None
    if repeated is not None:
        return ReadProblem(name, number, f"names {repeated} more than once; keep one of them")
    reason = None if is_utf8 else undecodable(value, fields)
    return RawRow(name, number, value) if reason is None else ReadProblem(name, number, reason)


def _no_list(document: object) -> str:
    """What to do with a file that is one object."""
    items = document.items() if isinstance(document, dict) else ()
    lists = [key for key, value in items if isinstance(value, list) and value and isinstance(value[0], dict)]
    inner = f"; the rows seem to be under {lists[0]!r}: keep that list alone" if len(lists) == 1 else ""
    return f"one JSON object, not rows; write a list of objects, or one object a line{inner}"


def _parsed(text: str) -> object:
    """The value, or `_BROKEN`."""
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return _BROKEN


def _parse(text: str) -> object:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else _RepeatedKeys(pairs)
