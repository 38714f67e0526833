"""Rows from JSON: one object a line, or one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import IO

from multitask_trainer.data.raw_rows import RawRow, ReadProblem, UsedFields, not_utf8, repeated_fields, undecodable

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
    numbered = enumerate(content, start=1)
    for number, data in numbered:
        line = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
        if not line.strip():
            continue
        if not _may_be_document(line):
            yield from _read_lines(name, chain([(number, line)], numbered), fields)
            return
        text = b"\n" * (number - 1) + line + content.read()  # the empty lines, so that an error names its line
        yield from _read_document(name, text, fields)
        return


def _may_be_document(line: bytes) -> bool:
    """Whether a file with this first line may be one JSON value: a list of objects, or an object on several lines."""
    start = line.lstrip()[:1]
    try:
        value = _parse(line.decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        return start in (b"[", b"{")
    return isinstance(value, list) and (not value or any(isinstance(item, dict) for item in value))


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
    if not isinstance(document, list):
        yield ReadProblem(name, None, _no_list(document), fatal=True)
        return
    is_utf8 = text.isascii() or not any("\udc80" <= char <= "\udcff" for char in text)
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


def _parse(text: str) -> object:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else _RepeatedKeys(pairs)
