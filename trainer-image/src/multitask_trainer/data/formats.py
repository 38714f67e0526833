"""From a data file to raw rows: one reader a format; every row and every problem has its line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, cast

import pyarrow as pa

from multitask_trainer.data.arrow_rows import read_arrow, read_parquet
from multitask_trainer.data.csv_rows import read_csv, read_tsv
from multitask_trainer.data.json_rows import read_json
from multitask_trainer.data.locations import DataFile
from multitask_trainer.data.raw_rows import RawRow, ReadProblem, UsedFields

__all__ = ["RawRow", "ReadProblem", "UsedFields", "read_file"]

READERS: Mapping[str, Callable[[str, IO[bytes], UsedFields], Iterator[RawRow | ReadProblem]]] = {
    "jsonl": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
_COMPRESSION_NAMES = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}
_TEXT_FORMATS = frozenset({"jsonl", "csv", "tsv"})
_HEAD_BYTES = 64
_SIGNATURES: tuple[tuple[bytes, str | None, str], ...] = (
    # first bytes, the format or compression that has them, what the file is and what to do
    (b"version https://git-lfs", None, "a Git LFS pointer, and not the data; run git lfs pull where it was cloned"),
    (b"/annex/objects/", None, "a git-annex pointer, and not the data; run git annex get where it was cloned"),
    (b"\x1f\x8b", "gz", "compressed with gzip, and its name does not say so; add .gz to it"),
    (b"\x28\xb5\x2f\xfd", "zst", "compressed with zstd, and its name does not say so; add .zst to it"),
    (b"\xfd7zXZ\x00", "xz", "compressed with xz, and its name does not say so; add .xz to it"),
    (b"BZh", "bz2", "compressed with bzip2, and its name does not say so; add .bz2 to it"),
    (b"PK\x03\x04", None, "a zip archive or a workbook; unpack it, or save it as CSV in UTF-8"),
    (b"PAR1", "parquet", "a parquet file by its content; name it .parquet"),
    (b"\xff\xfe", None, "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", None, "UTF-16; save it as UTF-8"),
    (b"<!DOCTYPE", None, "an HTML page, perhaps of a failed download; get the file again"),
    (b"<!doctype", None, "an HTML page, perhaps of a failed download; get the file again"),
    (b"<html", None, "an HTML page, perhaps of a failed download; get the file again"),
)


def read_file(file: DataFile, fields: UsedFields = None) -> Iterator[RawRow | ReadProblem]:
    """The rows of one file; a `ReadProblem` in the place of what cannot be read.

    What is wrong with a field that is not in ``fields`` is no problem; None stands for all fields. Raises only what
    trying again may cure: ConnectionError, TimeoutError, and what the library of a remote store raises.
    """
    last = 0
    try:
        with file.open_raw() as raw:
            what = _by_content(file, raw)
            if what is not None:
                yield ReadProblem(file.name, None, what, fatal=True)
                return
            with _unpacked(raw, file.compression) as content:
                for item in READERS[file.format](file.name, content, fields):
                    last = item.line or last
                    yield item
    except (ConnectionError, TimeoutError):
        raise
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, ArithmeticError, pa.ArrowException) as error:
        yield _broken(file, error, last)


def _by_content(file: DataFile, raw: IO[bytes]) -> str | None:
    """What the file is, if it is not what its name says."""
    head = raw.read(_HEAD_BYTES)
    raw.seek(0)
    for start, kind, what in _SIGNATURES:
        if head.startswith(start):
            return what if kind is None or kind not in (file.format, file.compression) else None
    is_text = file.compression is None and file.format in _TEXT_FORMATS
    return "no UTF-8 text (it has NUL bytes); perhaps it is UTF-16; save it as UTF-8" if is_text and 0 in head else None


@contextmanager
def _unpacked(raw: IO[bytes], compression: str | None) -> Iterator[IO[bytes]]:
    """The content, uncompressed."""
    if compression is None:
        yield raw
        return
    with _opened(raw, compression) as content:
        yield content


def _opened(raw: IO[bytes], compression: str) -> IO[bytes]:
    if compression == "gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if compression == "bz2":
        return cast("IO[bytes]", bz2.BZ2File(raw))
    if compression == "xz":
        return cast("IO[bytes]", lzma.open(raw))
    return cast("IO[bytes]", io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")))


def _broken(file: DataFile, error: Exception, last: int) -> ReadProblem:
    """The end of a file that cannot be read further; ``last`` is the last line that could."""
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, PermissionError):
        return ReadProblem(file.name, None, "no permission to read it; change its mode or owner", fatal=True)
    if file.compression is not None:
        kind = _COMPRESSION_NAMES[file.compression]
        reason = f"not whole {kind} data ({message}); write or copy the file again"
        return ReadProblem(file.name, last + 1, reason, fatal=True)
    if last:
        reason = f"cannot be read from here on ({message}); write or copy the file again"
        return ReadProblem(file.name, last + 1, reason, fatal=True)
    kind = {"parquet": "a parquet", "arrow": "an Arrow"}.get(file.format, "")
    what = f"not {kind} file, or a damaged one" if kind else "cannot be read"
    return ReadProblem(file.name, None, f"{what} ({message}); write or copy the file again", fatal=True)
