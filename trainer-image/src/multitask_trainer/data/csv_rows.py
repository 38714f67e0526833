"""Rows from CSV and TSV: the first line names the fields."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from typing import IO

from multitask_trainer.data.raw_rows import RawRow, ReadProblem, UsedFields, repeated_fields, undecodable

DELIMITERS = (",", ";", "\t", "|")
_CR_ALONE = re.compile(rb"(?<=\r)(?![\r\n]|\Z)")
"""After a CR that ends a line by itself."""
MAX_CELL = 1 << 30
"""Characters of a cell. Python's own limit is 131,072, and a document in a cell is longer."""


def read_csv(name: str, content: IO[bytes], fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    """The rows of a ``.csv`` file; the delimiter is the one under which the header has the most of ``fields``."""
    return _read(name, content, fields, None)


def read_tsv(name: str, content: IO[bytes], fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    """The rows of a ``.tsv`` file."""
    return _read(name, content, fields, "\t")


def delimiter_of(header: str, fields: UsedFields) -> str:
    """The delimiter of a CSV file with this first line: the one that gives the most of the used fields.

    Where none gives any, a comma, unless the line has none and another delimiter.
    """

    def cells(delimiter: str) -> list[str]:
        try:
            return next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            return []

    counts = {delimiter: len(set(cells(delimiter)) & set(fields or ())) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=counts.__getitem__)  # the first of equals
    if counts[best]:
        return best
    return "," if len(cells(",")) > 1 else max(DELIMITERS, key=lambda delimiter: len(cells(delimiter)))


def _read(name: str, content: IO[bytes], fields: UsedFields, delimiter: str | None) -> Iterator[RawRow | ReadProblem]:
    lines = _decoded(content)
    first = next(lines, None)
    if first is None:
        return
    skipped = 0
    declared = re.fullmatch(r"sep=(.)\s*", first)  # a line that Excel writes and hides
    if declared:
        delimiter, skipped, first = declared[1], 1, next(lines, "")
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(chain([first], lines), delimiter=delimiter or delimiter_of(first, fields), strict=True)
    begun = 1
    try:
        header = next(reader, [])
        repeated = repeated_fields(header, fields)
        if repeated is not None:
            reason = f"the header names {repeated} more than once; rename the columns"
            yield ReadProblem(name, 1 + skipped, reason, fatal=True)
            return
        begun = reader.line_num + 1
        for cells in reader:
            if cells:
                yield _row(name, begun + skipped, header, cells, fields)
            begun = reader.line_num + 1
    except csv.Error as error:
        reason = f"not CSV ({error}); check the quotes from this line on"
        yield ReadProblem(name, begun + skipped, reason, fatal=True)


def _row(name: str, line: int, header: list[str], cells: list[str], fields: UsedFields) -> RawRow | ReadProblem:
    if len(cells) != len(header):
        return ReadProblem(name, line, f"{len(cells)} columns, but the header has {len(header)}; quote the cells")
    values = dict(zip(header, cells, strict=True))
    reason = None if all(map(str.isascii, cells)) else undecodable(values, fields)
    return RawRow(name, line, values) if reason is None else ReadProblem(name, line, reason)


def _decoded(content: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(content):
        data = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        for part in _CR_ALONE.split(data):  # some programs end lines with CR alone
            yield part.decode(errors="surrogateescape")
