"""Encoded rows in one file of plain arrays, memory-mapped: all processes that read it share its pages.

::

    header          magic · rows · tokens · CRC-32 of all that follows
    ids             int32 (tokens,), filled up to a multiple of 8 bytes
    starts          int64 (rows + 1,)
    prompt lengths  int32 (rows,)
    cut             uint8 (rows,)

All numbers are little-endian. A file gets its name when it is whole.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from multitask_trainer.storage.files import temporary_sibling
from multitask_trainer.training.batching.dataset import EncodedDataset

_MAGIC = b"mtmrows1"
_HEADER = struct.Struct("<8sqqq")
_BLOCK = 1 << 22


def write_row_file(path: Path, parts: Iterable[EncodedDataset]) -> None:
    """Write the rows of all ``parts``, in order, as ``path``; only one part is in memory, and 13 bytes a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        with temporary.open("wb") as file:
            _write(file, parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_row_file(path: Path) -> EncodedDataset | None:
    """The rows of ``path``, memory-mapped and read-only; None without a file, or if it is not as it was written.

    The whole file is read once, to be compared with its checksum.
    """
    try:
        with path.open("rb") as file:
            problem = _problem(file)
            if problem is None:
                return _map(file)
    except FileNotFoundError:
        return None
    sys.stderr.write(f"{path}: {problem}; it is made anew\n")
    return None


def _write(file: BinaryIO, parts: Iterable[EncodedDataset]) -> None:
    file.write(bytes(_HEADER.size))
    checksum = tokens = 0

    def write(array: NDArray[np.generic], dtype: str) -> None:
        nonlocal checksum
        data = np.ascontiguousarray(array, dtype=dtype).tobytes()
        checksum = zlib.crc32(data, checksum)
        file.write(data)

    lengths, prompt_lengths, cut = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.uint8)]
    for part in parts:
        write(part.ids, "<i4")
        tokens += len(part.ids)
        lengths.append(np.diff(part.starts))
        prompt_lengths.append(part.prompt_lengths)
        cut.append(part.cut)
    write(np.zeros(tokens % 2, np.int32), "<i4")
    write(np.concatenate(lengths).cumsum(), "<i8")
    write(np.concatenate(prompt_lengths), "<i4")
    write(np.concatenate(cut), "u1")
    rows = sum(map(len, cut))
    file.seek(0)
    file.write(_HEADER.pack(_MAGIC, rows, tokens, checksum))


def _problem(file: BinaryIO) -> str | None:
    """Why an open file has not the rows that were written; it is then at its end."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        return "is no file of encoded rows"
    _, rows, tokens, expected = _HEADER.unpack(header)
    if min(rows, tokens) < 0 or os.fstat(file.fileno()).st_size != _HEADER.size + _bytes(rows, tokens):
        return "has another size than its header says"
    checksum = 0
    while block := file.read(_BLOCK):
        checksum = zlib.crc32(block, checksum)
    return None if checksum == expected else "has other bytes than were written"


def _bytes(rows: int, tokens: int) -> int:
    return 4 * (tokens + tokens % 2) + 8 * (rows + 1) + 4 * rows + rows


def _map(file: BinaryIO) -> EncodedDataset:
    # Plain arrays over the map: slicing numpy's own class for it takes ten times as long.
    content: mmap.mmap | bytes
    try:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno != errno.ENODEV:  # what a file system without maps answers
            raise
        file.seek(0)
        content = file.read()
    _, rows, tokens, _ = _HEADER.unpack_from(content)
    starts = _HEADER.size + 4 * (tokens + tokens % 2)
    prompt_lengths = starts + 8 * (rows + 1)
    return EncodedDataset(
        ids=np.frombuffer(content, "<i4", tokens, _HEADER.size),
        starts=np.frombuffer(content, "<i8", rows + 1, starts),
        prompt_lengths=np.frombuffer(content, "<i4", rows, prompt_lengths),
        cut=np.frombuffer(content, "u1", rows, prompt_lengths + 4 * rows),
    )
