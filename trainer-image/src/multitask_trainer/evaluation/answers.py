"""Answers to the rows of a split, and their parquet files (``scores.parquet``, ``answers/<task>.parquet``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("prediction", pa.string()),
        ("score", pa.float64()),
        ("margin", pa.float64()),
        ("gold", pa.list_(pa.string())),
        ("margins", pa.list_(pa.float64())),
        ("ends", pa.list_(pa.int64())),
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one row.

    ``score`` is the row's own (see `metrics.row_scores`); ``gold`` the label or the references. ``margin`` is how much
    the best answer led the second, in nats: of labels, or the smallest over a text's tokens. For texts ``margins`` has
    it token by token and ``ends`` the number of characters of the text up to and with each token.
    """

    prediction: str
    score: float
    margin: float
    gold: tuple[str, ...]
    margins: tuple[float, ...] = ()
    ends: tuple[int, ...] = ()


def write_scores(path: Path, answers: Sequence[Answer]) -> None:
    """Write answers, one a row, in order."""
    records = [asdict(answer) for answer in answers]
    columns = [pa.array([record[name] for record in records], SCHEMA.field(name).type) for name in SCHEMA.names]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, SCHEMA), path, compression="zstd", version="2.6", store_schema=False)


def read_scores(path: Path) -> list[Answer]:
    """Read what `write_scores` wrote."""
    table = pq.read_table(path, schema=SCHEMA, partitioning=None)
    columns = [table.column(name).to_pylist() for name in SCHEMA.names]
    return [
        Answer(prediction, score, margin, tuple(gold), tuple(margins), tuple(ends))
        for prediction, score, margin, gold, margins, ends in zip(*columns, strict=True)
    ]
