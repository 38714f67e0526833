"""The normalised row that ``prepare`` writes and every later stage reads, and its parquet files."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from multitask_trainer.errors import ArtifactError
from multitask_trainer.storage.files import file_entry

SCHEMA = pa.schema([("fields", pa.string()), ("label", pa.string()), ("targets", pa.list_(pa.string()))])
INPUTS = "inputs.npz"
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One example: the fields its prompt uses, and its answer.

    Classification rows have a ``label`` and no targets; generation rows have ``targets``, the first of which is what is
    trained on, and no label.
    """

    fields: Mapping[str, str]
    label: str | None = None
    targets: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The text that training teaches: the label, or the first target."""
        return self.label if self.label is not None else self.targets[0]


def read_rows(artifact: Path, split: str) -> list[Row]:
    """The rows of ``split`` (train, validation or test) of a prepare artifact, in order."""
    path = artifact / f"{split}.parquet"
    with _read_errors(path):
        return _rows(pq.read_table(path, schema=SCHEMA, partitioning=None))


@dataclass(frozen=True)
class PreparedSplit:
    """The rows of one split of a prepare artifact, on disk: as many of them in memory as are asked for."""

    path: Path
    source: str = ""
    """The artifact that they are of, as a file name."""

    def __len__(self) -> int:
        with _read_errors(self.path), pq.ParquetFile(self.path) as file:
            return int(file.metadata.num_rows)

    def __iter__(self) -> Iterator[Row]:
        return (row for part in self.parts(_ROWS_AT_ONCE) for row in part)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        with _read_errors(self.path):
            return file_entry(self.path).sha256

    def parts(self, size: int) -> Iterator[list[Row]]:
        """All rows in order, at most ``size`` at a time."""
        for batch in self._batches(size):
            yield _rows(batch)

    def take(self, numbers: npt.NDArray[np.int64]) -> list[Row]:
        """The rows of these numbers, in their order."""
        order = np.argsort(numbers, kind="stable")
        ascending = numbers[order]
        found: list[Row] = []
        begin = 0
        for batch in self._batches(_ROWS_AT_ONCE):
            end = begin + batch.num_rows
            first, last = np.searchsorted(ascending, [begin, end])
            found += _rows(batch.take(pa.array(ascending[first:last] - begin)))
            begin = end
        return [found[place] for place in np.argsort(order)]

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        with _read_errors(self.path), pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(size, columns=SCHEMA.names)


def _rows(table: pa.Table | pa.RecordBatch) -> list[Row]:
    columns = (table.column(name).to_pylist() for name in SCHEMA.names)
    return [Row(json.loads(fields), label, tuple(targets)) for fields, label, targets in zip(*columns, strict=True)]


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); delete the folder and prepare runs again") from error


def write_rows(artifact: Path, split: str, rows: Sequence[Row]) -> None:
    """Write ``rows`` as ``<split>.parquet``; the same rows give the same bytes."""
    columns = [
        [_text(row.fields) for row in rows],
        [row.label for row in rows],
        [list(row.targets) for row in rows],
    ]
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    pq.write_table(table, artifact / f"{split}.parquet", compression="zstd", version="2.6", store_schema=False)


def rows_digest(rows: Iterable[Row]) -> str:
    """A digest of the rows themselves: it does not change with the version of the library that writes the file."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps([dict(row.fields), row.label, list(row.targets)], sort_keys=True).encode())
        sha.update(b"\n")
    return sha.hexdigest()[:12]


def input_hash(fields: Mapping[str, str]) -> int:
    """64 bits of the normalised prompt fields (NFC, casefolded, white space collapsed): the same for the same input.

    The field *values* are hashed, sorted, without the names: two tasks about the same texts are recognised to
    overlap whatever they call them. A pair the other way round counts as the same input.
    """
    normalised = "\x1f".join(sorted(_comparable_text(text) for text in fields.values()))
    return int.from_bytes(hashlib.blake2b(normalised.encode(), digest_size=8).digest(), "little")


def _comparable_text(text: str) -> str:
    # Unicode 3.13, canonical caseless matching: folding the case of a composed letter may give a decomposed one
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(folded.split())


def input_hashes(rows: Iterable[Row]) -> npt.NDArray[np.uint64]:
    """``input_hash`` of every row; shape (rows,)."""
    return np.fromiter((input_hash(row.fields) for row in rows), dtype=np.uint64)


def write_inputs(artifact: Path, hashes: Mapping[str, npt.NDArray[np.uint64]]) -> None:
    """Write ``inputs.npz``: split → ``input_hashes``."""
    np.savez(artifact / INPUTS, **{split: hashes[split] for split in sorted(hashes)})


def read_inputs(artifact: Path) -> dict[str, npt.NDArray[np.uint64]]:
    """Split → ``input_hashes`` of a prepare artifact."""
    with np.load(artifact / INPUTS) as file:
        return {split: file[split] for split in file.files}


def _text(fields: Mapping[str, str]) -> str:
    return json.dumps(dict(fields), ensure_ascii=False, separators=(",", ":"))
