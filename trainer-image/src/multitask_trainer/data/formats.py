"""From a data file to raw rows: one reader a format; every row and every problem has its line."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from multitask_trainer.data.locations import DataFile

BATCH = 4096


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before validation; ``line`` counts from 1 (rows of parquet and of the hub: the row's number)."""

    file: str
    line: int
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ReadProblem:
    """What could not be read: one row, or the rest of the file if it is ``fatal``."""

    file: str
    line: int | None
    reason: str
    fatal: bool = False


def read_file(file: DataFile) -> Iterator[RawRow | ReadProblem]:
    """The rows of one file; a `ReadProblem` in the place of what cannot be read, never an exception."""
    reader = READERS[file.format]
    last = 0
    try:
        with file.open() as content:
            for item in reader(file.name, content):
                last = item.line or last
                yield item
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        kind = "gzip" if file.compression == "gz" else "xz"
        yield ReadProblem(
            file.name, last + 1, f"not whole {kind} data ({error}); write or copy the file again", fatal=True
        )
    except PermissionError:
        yield ReadProblem(file.name, None, "no permission to read it; change its mode or owner", fatal=True)
    except pa.ArrowException as error:
        yield ReadProblem(file.name, None, f"not a parquet file ({_first_line(error)}); write it again", fatal=True)


def _read_jsonl(name: str, content: IO[bytes]) -> Iterator[RawRow | ReadProblem]:
    for number, data in enumerate(content, start=1):
        line = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode(), parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            yield ReadProblem(name, number, _not_utf8(error))
        except (ValueError, RecursionError) as error:
            yield ReadProblem(name, number, f"not JSON ({error}); every line must be one JSON object")
        else:
            if isinstance(values, dict):
                yield RawRow(name, number, values)
            else:
                kind = {list: "a list", str: "a string", type(None): "null"}.get(type(values), "a single value")
                yield ReadProblem(name, number, f'{kind}, not a JSON object; write it as {{"text": …}}')


def _read_csv(name: str, content: IO[bytes]) -> Iterator[RawRow | ReadProblem]:
    reader = csv.reader(_decoded(content), strict=True)
    begun = 1
    try:
        header = next(reader, None)
        if header is None:
            return
        repeated = sorted({column for column in header if header.count(column) > 1})
        if repeated:
            reason = f"the header names {', '.join(map(repr, repeated))} more than once; rename the columns"
            yield ReadProblem(name, 1, reason, fatal=True)
            return
        begun = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield RawRow(name, begun, dict(zip(header, cells, strict=True)))
            elif cells:
                yield ReadProblem(
                    name, begun, f"{len(cells)} columns, but the header has {len(header)}; quote the cells"
                )
            begun = reader.line_num + 1
    except UnicodeDecodeError as error:
        yield ReadProblem(name, reader.line_num + 1, _not_utf8(error), fatal=True)
    except csv.Error as error:
        yield ReadProblem(name, begun, f"not CSV ({error}); check the quotes from this line on", fatal=True)


def _read_parquet(name: str, content: IO[bytes]) -> Iterator[RawRow | ReadProblem]:
    number = 0
    with pq.ParquetFile(content) as file:
        for batch in file.iter_batches(batch_size=BATCH):
            for values in batch.to_pylist():
                number += 1
                yield RawRow(name, number, values)


READERS: Mapping[str, Callable[[str, IO[bytes]], Iterator[RawRow | ReadProblem]]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}


def _decoded(content: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(content):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"not UTF-8 (byte 0x{byte:02x} at position {error.start + 1}); save the file as UTF-8"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
