"""Only the fields that a task reads count; what cannot be converted is a bad row, what breaks a file names the file."""

from __future__ import annotations

import bz2
import datetime
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from multitask_trainer.data.hub import read_split
from multitask_trainer.data.inspection import TaskInspection, inspect_task
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.raw_rows import RawRow, ReadProblem
from multitask_trainer.data.reading import read
from support.data_builders import data, generation, lines, task, write

TEXTS = ["broken again", "thank you", "no power"]
LABELS = ["high", "low", "high"]
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0\x06\0\0\0"), pa.py_buffer(b"ok\xff\xfeok")]
)
YEAR_20000 = pa.array([0, 568_971_820_800_000, 0], pa.timestamp("ms"))
ODD_ZONE = pa.array([0, 1, 2], pa.timestamp("ms", tz="Mars/Olympus"))


def parquet(folder: Path, name: str, columns: list[tuple[str, Any]]) -> str:
    table = pa.table(
        [pa.array(values) if isinstance(values, list) else values for _, values in columns],
        names=[column for column, _ in columns],
    )
    pq.write_table(table, folder / name, use_dictionary=False, compression="none")
    return name


def inspected(folder: Path, train: Any, definition: Any = None) -> TaskInspection:
    return inspect_task(definition or task(), data(folder, train=train), DataLocations(folder))


@pytest.mark.parametrize(("column", "values"), [("when", YEAR_20000), ("when", ODD_ZONE), ("note", NOT_UTF8)])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_column_that_no_task_reads_is_not_converted(tmp_path: Path, column: str, values: Any, kind: str) -> None:
    columns = [("text", TEXTS), ("label", LABELS), (column, values)]
    name = parquet(tmp_path, "rows.parquet", columns)
    if kind == "arrow":
        table = pa.table([pa.array(TEXTS), pa.array(LABELS), values], names=["text", "label", column])
        name = "rows.arrow"
        with pa.ipc.new_stream(tmp_path / name, table.schema) as file:
            file.write_table(table)
    inspection = inspected(tmp_path, name)
    assert inspection.problems["train"] == []
    assert [row.label for row in inspection.rows["train"]] == LABELS


@pytest.mark.parametrize(
    ("values", "rows", "reason"),
    [
        (NOT_UTF8, [2], "text: not UTF-8 (byte 0xff); save the file as UTF-8"),
        (YEAR_20000, [2], "text: a timestamp[ms] that cannot be converted (date value out of range); write it as text"),
        (ODD_ZONE, [1, 2, 3], "text: a timestamp[ms, tz=Mars/Olympus] that cannot be converted"),
    ],
)
def test_a_value_that_cannot_be_converted_is_a_bad_row(
    tmp_path: Path, values: Any, rows: list[int], reason: str
) -> None:
    name = parquet(tmp_path, "rows.parquet", [("text", values), ("label", LABELS)])
    bad = [item for item in inspected(tmp_path, name).bad if reason in item.reason]
    assert [(item.file, item.line, item.fatal) for item in bad] == [(name, row, False) for row in rows]


@pytest.mark.parametrize("file", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("text", pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), NOT_UTF8)),
        ("label", pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), NOT_UTF8)),
        ("targets", pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), NOT_UTF8)),
        ("targets", pa.LargeListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int64()), NOT_UTF8)),
    ],
    ids=["dictionary", "labels", "list", "large list"],
)
def test_bytes_in_a_dictionary_or_a_list_cost_one_row(tmp_path: Path, column: str, values: Any, file: str) -> None:
    columns = {"text": pa.array(TEXTS), "label": pa.array(["ok"] * 3), "targets": pa.array([["ok"]] * 3)}
    table = pa.table(columns | {column: values})
    name = f"rows.{file}"
    if file == "arrow":
        with pa.ipc.new_stream(tmp_path / name, table.schema) as written:
            written.write_table(table)
    else:
        pq.write_table(table, tmp_path / name)
    definition = generation() if column == "targets" else task(labels=("ok", "other"))
    inspection = inspect_task(
        definition, data(tmp_path, validation=name, test=name, train=name), DataLocations(tmp_path)
    )
    bad = [item for item in inspection.bad if item.split == "validation"]
    assert [(item.file, item.line, item.fatal) for item in bad] == [(name, 2, False)]
    assert "not UTF-8 (byte 0xff)" in bad[0].reason
    assert len(inspection.rows["validation"]) == 2


@pytest.mark.parametrize("file", ["parquet", "arrow"])
def test_bytes_in_a_categorical_of_pandas_name_the_column_at_least(tmp_path: Path, file: str) -> None:
    """Its index is small, and pyarrow decodes such a column of parquet as a whole."""
    categories = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), NOT_UTF8)
    table = pa.table({"text": pa.array(TEXTS), "label": categories})
    name = f"rows.{file}"
    if file == "arrow":
        with pa.ipc.new_stream(tmp_path / name, table.schema) as written:
            written.write_table(table)
    else:
        pq.write_table(table, tmp_path / name)
    (bad,) = [item for item in inspected(tmp_path, name, task(labels=("ok", "x"))).bad if item.file == name]
    expected = {
        "parquet": (None, True, "label: a category is not UTF-8; save the column as text in UTF-8"),
        "arrow": (2, False, "label: not UTF-8 (byte 0xff); save the file as UTF-8"),
    }
    assert (bad.line, bad.fatal, bad.reason) == expected[file]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b'{"text": "a", "label": "low", "note": "caf\xe9"}\n{"text": "b", "label": "high"}\n'),
        ("rows.json", b'[{"text": "a", "label": "low", "note": "caf\xe9"}, {"text": "b", "label": "high"}]'),
        ("rows.csv", b"text,label,note\na,low,caf\xe9\nb,high,\n"),
        ("nan.jsonl", b'{"text": "a", "label": "low", "note": NaN}\n{"text": "b", "label": "high"}\n'),
        ("twice.jsonl", b'{"text": "a", "label": "low", "n": 1, "n": 2}\n{"text": "b", "label": "high"}\n'),
        (
            "inside.jsonl",
            b'{"text": "a", "label": "low", "n": {"text": 1, "text": 2}}\n{"text": "b", "label": "high"}\n',
        ),
        ("twice.csv", b"text,label,,\na,low,,\nb,high,,\n"),
    ],
)
def test_what_is_wrong_with_another_field_is_no_problem(tmp_path: Path, name: str, content: bytes) -> None:
    inspection = inspected(tmp_path, write(tmp_path, name, content))
    assert inspection.problems["train"] == []
    assert [row.label for row in inspection.rows["train"]] == ["low", "high"]


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("rows.csv", b"text,label\na,low\ncaf\xe9,low\nb,high\n", (3, "not UTF-8 (byte 0xe9 in 'text')")),
        ("rows.jsonl", b'{"text": NaN, "label": "low"}\n', (1, "not a finite number; write a string or a number")),
        ("rows.jsonl", b'{"text": "a", "label": "low", "label": "high"}\n', (1, "names 'label' more than once")),
    ],
)
def test_a_used_field_is_a_bad_row(tmp_path: Path, name: str, content: bytes, bad: tuple[int, str]) -> None:
    items = inspected(tmp_path, write(tmp_path, name, content)).bad
    assert [(item.line, item.fatal) for item in items] == [(bad[0], False)]
    assert bad[1] in items[0].reason


@pytest.mark.parametrize(
    ("definition", "columns", "repeated"),
    [
        (task(), [("text", TEXTS), ("label", LABELS), ("label", LABELS)], "'label'"),
        (task(), [("text", TEXTS), ("text", TEXTS), ("label", LABELS)], "'text'"),
        (generation(), [("text", TEXTS), ("target", TEXTS), ("target", TEXTS)], "'target'"),
    ],
)
def test_two_used_columns_of_one_name_are_refused(tmp_path: Path, definition: Any, columns: Any, repeated: str) -> None:
    name = parquet(tmp_path, "rows.parquet", columns)
    assert inspected(tmp_path, name, definition).problems["train"][0] == (
        f"{name}: has more than one column {repeated}; rename the columns"
    )


def test_two_columns_of_one_name_that_no_task_reads_are_left_alone(tmp_path: Path) -> None:
    name = parquet(tmp_path, "rows.parquet", [("text", TEXTS), ("label", LABELS), ("n", LABELS), ("n", TEXTS)])
    assert inspected(tmp_path, name).problems["train"] == []


def overwritten(file: Path, column: str) -> None:
    """Overwrite the first page of a column."""
    chunk = next(
        chunk
        for index in range(pq.read_metadata(file).row_group(0).num_columns)
        if (chunk := pq.read_metadata(file).row_group(0).column(index)).path_in_schema == column
    )
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 12] = b"\xff" * 12
    file.write_bytes(content)


@pytest.mark.parametrize(("column", "problems"), [("text", 1), ("note", 0)])
def test_a_broken_page_names_its_file_and_only_if_it_is_read(tmp_path: Path, column: str, problems: int) -> None:
    name = parquet(tmp_path, "rows.parquet", [("text", TEXTS), ("label", LABELS), ("note", TEXTS)])
    overwritten(tmp_path / name, column)
    found = [problem for problem in inspected(tmp_path, name).problems["train"] if problem.startswith(f"{name}: not a")]
    assert len(found) == problems


def test_a_cell_of_any_length_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    name = write(tmp_path, "rows.csv", f"text,label\n{long},low\nb,high\n".encode())
    assert [len(row.fields["text"]) for row in inspected(tmp_path, name).rows["train"]] == [200_000, 1]


@pytest.mark.parametrize(
    ("header", "row"),
    [("text;label;note", "a, b;low;c, d"), ("note\ttext\tlabel", "n\ta, b\tlow"), ("label|text", "low|a, b")],
)
def test_the_delimiter_is_the_one_that_gives_the_fields(tmp_path: Path, header: str, row: str) -> None:
    name = write(tmp_path, "rows.csv", f"{header}\n{row}\n".encode())
    (found,) = inspected(tmp_path, name).rows["train"]
    assert (found.fields["text"], found.label) == ("a, b", "low")


def test_a_comma_stays_the_delimiter_where_it_gives_the_fields(tmp_path: Path) -> None:
    name = write(tmp_path, "rows.csv", b"text,label,a;b;c;d\nx; y,low,1\n")
    (found,) = inspected(tmp_path, name).rows["train"]
    assert found.fields["text"] == "x; y"


def test_a_split_of_the_hub_is_decoded_in_the_used_columns_only(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "repo").mkdir()
    when = [datetime.datetime(2024, 1, 1), None]
    rows = Dataset.from_dict({"text": ["a", "b"], "label": ["low", "high"], "when": when})
    rows.to_parquet(tmp_path / "repo" / "train.parquet")
    found = list(read_split("hf://here/train", str(tmp_path / "repo"), None, "train", ("text", "label")))
    assert [item for item in found if isinstance(item, ReadProblem)] == []
    assert [(dict(item.values), item.columns) for item in found if isinstance(item, RawRow)] == [
        ({"text": "a", "label": "low"}, ("text", "label", "when")),
        ({"text": "b", "label": "high"}, ("text", "label", "when")),
    ]


def test_a_row_of_the_hub_that_cannot_be_converted_is_a_bad_row(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "repo").mkdir()
    parquet(tmp_path / "repo", "train.parquet", [("text", NOT_UTF8), ("label", LABELS)])
    found = list(read_split("hf://here/train", str(tmp_path / "repo"), None, "train", ("text", "label")))
    assert [type(item) for item in found] == [RawRow, ReadProblem, RawRow]
    assert (found[1].line, found[1].file) == (2, "hf://here/train")
    others = list(read_split("hf://here/train", str(tmp_path / "repo"), None, "train", ("label",)))
    assert [item.values for item in others if isinstance(item, RawRow)] == [{"label": label} for label in LABELS]


def damaged(content: bytes, seed: int) -> bytes:
    """Some bytes changed, left out, or put in."""
    draw, data = random.Random(seed), bytearray(content)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(data))
        end = place + draw.choice((0, 1, 8, len(data)))
        data[place:end] = draw.randbytes(draw.choice((1, 4, 8)))
    return bytes(data)


def arrow_stream(table: pa.Table) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.ipc.new_stream(packed, table.schema) as file:
        file.write_table(table)
    return bytes(packed.getvalue().to_pybytes())


def arrow_file(table: pa.Table) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.ipc.new_file(packed, table.schema) as file:
        file.write_table(table)
    return bytes(packed.getvalue().to_pybytes())


def parquet_file(table: pa.Table) -> bytes:
    packed = pa.BufferOutputStream()
    pq.write_table(table, packed, row_group_size=50)
    return bytes(packed.getvalue().to_pybytes())


def zstd_lines(table: pa.Table) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as file:
        file.write(lines(table.to_pylist()))
    return bytes(packed.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("rows.arrow", arrow_stream),
        ("file.arrow", arrow_file),
        ("rows.parquet", parquet_file),
        ("rows.jsonl", lambda table: lines(table.to_pylist())),
        ("rows.json", lambda table: json.dumps(table.to_pylist(), indent=1).encode()),
        ("rows.jsonl.zst", zstd_lines),
        ("rows.jsonl.bz2", lambda table: bz2.compress(lines(table.to_pylist()))),
        ("rows.jsonl.xz", lambda table: lzma.compress(lines(table.to_pylist()))),
        ("rows.csv", lambda table: table.to_pandas().to_csv(index=False).encode()),
        ("rows.tsv", lambda table: table.to_pandas().to_csv(index=False, sep="\t").encode()),
    ],
)
def test_no_damage_escapes_the_reader(tmp_path: Path, name: str, written: Callable[[pa.Table], bytes]) -> None:
    table = pa.table({"text": [f"row {index} é" for index in range(120)], "label": ["low"] * 120, "n": range(120)})
    whole = written(table)
    found = 0
    for seed in range(40):
        (tmp_path / name).write_bytes(damaged(whole, seed))
        items = list(read(name, DataLocations(tmp_path), ("text", "label")))
        assert {item.file for item in items} == {name}
        found += any(isinstance(item, ReadProblem) for item in items)
    assert found > 20
