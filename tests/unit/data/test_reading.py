from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multitask_trainer.data.formats import RawRow, ReadProblem, read_file
from multitask_trainer.data.hub import HubData, read_split
from multitask_trainer.data.locations import DataFile, DataLocations
from multitask_trainer.data.reading import read, read_texts
from multitask_trainer.errors import DataError
from support.data_builders import GOOD, lines, write


def read_all(address: str, root: Path) -> list[RawRow | ReadProblem]:
    return list(read(address, DataLocations(root)))


def values(address: str, root: Path) -> list[object]:
    items = read_all(address, root)
    assert [item for item in items if isinstance(item, ReadProblem)] == []
    return [dict(item.values) for item in items if isinstance(item, RawRow)]


def zstd(content: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as file:
        file.write(content)
    return bytes(packed.getvalue().to_pybytes())


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CSV = b'text,label\nbroken again,high\n"thank you",low\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", lines(GOOD)),
        ("rows.jsonl.gz", lines(GOOD)),
        ("ROWS.JSONL", lines(GOOD)),
        ("rows.csv", CSV),
        ("rows.csv.gz", CSV),
        ("byte-order-mark.csv", b"\xef\xbb\xbf" + CSV),
        ("byte-order-mark.jsonl", b"\xef\xbb\xbf" + lines(GOOD)),
        ("blank-lines.jsonl", b"\n" + lines(GOOD) + b"\n  \n"),
        ("windows.jsonl", lines(GOOD).replace(b"\n", b"\r\n")),
        ("rows.jsonl.xz", lzma.compress(lines(GOOD))),
        ("rows.jsonl.bz2", bz2.compress(lines(GOOD))),
        ("rows.jsonl.zst", zstd(lines(GOOD))),
        ("two-frames.jsonl.zst", zstd(lines(GOOD[:1])) + zstd(lines(GOOD[1:]))),
        ("rows.ndjson", lines(GOOD)),
        ("lines.json", lines(GOOD)),
        ("one-list.json", json.dumps(GOOD).encode()),
        ("one-list.jsonl", json.dumps(GOOD).encode()),
        ("indented-list.json.gz", json.dumps(GOOD, indent=1).encode()),
        ("byte-order-mark.json", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
        ("rows.tsv", CSV.replace(b",", b"\t")),
        ("rows.tsv.gz", CSV.replace(b",", b"\t")),
        ("semicolons.csv", CSV.replace(b",", b";")),
        ("tabs.csv", CSV.replace(b",", b"\t")),
        ("bars.csv", CSV.replace(b",", b"|")),
        ("old-mac.csv", CSV.replace(b"\n", b"\r")),
        ("old-mac.tsv.gz", CSV.replace(b",", b"\t").replace(b"\n", b"\r")),
        ("all-three.csv", CSV.replace(b"\n", b"\r", 1)),
        ("excel.csv", b"sep=;\r\n" + CSV.replace(b",", b";").replace(b"\n", b"\r\n")),
    ],
)
def test_the_same_rows_in_every_format(tmp_path: Path, name: str, content: bytes) -> None:
    assert values(write(tmp_path, name, content), tmp_path) == GOOD


def test_parquet_rows_are_read_in_order(tmp_path: Path) -> None:
    rows = [{"text": f"row {index}", "targets": [str(index)]} for index in range(10_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=3000)
    assert values("rows.parquet", tmp_path) == rows


@pytest.mark.parametrize("spelling", ["rows.jsonl", "./rows.jsonl", "{root}/rows.jsonl", "file://{root}/rows.jsonl"])
def test_addresses_of_a_local_file(tmp_path: Path, spelling: str) -> None:
    write(tmp_path, "rows.jsonl", GOOD)
    assert values(spelling.format(root=tmp_path), tmp_path) == GOOD


def test_a_folder_is_its_data_files_by_name_without_hidden_ones(tmp_path: Path) -> None:
    write(tmp_path, "split/b.jsonl", [{"n": 3}])
    write(tmp_path, "split/a/1.jsonl.gz", [{"n": 1}, {"n": 2}])
    for other in ("README.md", "_SUCCESS", ".rows.jsonl", "_temporary/rows.jsonl"):
        write(tmp_path, f"split/{other}", b'{"n": 9}')
    assert values("split", tmp_path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_remote_folder_is_read_through_fsspec() -> None:
    with fsspec.open("memory://bucket/rows/a.jsonl.gz", "wb", compression="gzip") as file:
        file.write(lines(GOOD))
    assert values("memory://bucket/rows", Path()) == GOOD
    (missing,) = read_all("memory://bucket/nothing.jsonl", Path())
    assert "no such file or folder" in missing.reason


def test_a_claim_is_read_where_it_is_mounted(tmp_path: Path) -> None:
    write(tmp_path, "tasks/rows.jsonl", GOOD)
    places = DataLocations.of(".", {"MULTITASK_MOUNTS": f'{{"models": "{tmp_path}"}}'})
    rows = [dict(item.values) for item in read("pvc://models/tasks/rows.jsonl", places) if isinstance(item, RawRow)]
    assert rows == GOOD


def test_csv_rows_name_the_line_they_begin_on(tmp_path: Path) -> None:
    write(tmp_path, "rows.csv", b'text,label\n"two\nlines",low\nnext,high\n')
    assert [(item.line, item.values["text"]) for item in read_all("rows.csv", tmp_path)] == [
        (2, "two\nlines"),
        (4, "next"),
    ]


def test_a_carriage_return_in_quotes_is_part_of_the_cell(tmp_path: Path) -> None:
    write(tmp_path, "rows.csv", b'text,label\n"two\rlines",low\nnext,high\n')
    assert values("rows.csv", tmp_path) == [
        {"text": "two\rlines", "label": "low"},
        {"text": "next", "label": "high"},
    ]


def test_objects_with_lists_in_them_are_rows_where_there_are_several(tmp_path: Path) -> None:
    rows = [{"turns": [{"a": 1}]}, {"turns": [{"a": 2}]}]
    assert values(write(tmp_path, "rows.jsonl", rows), tmp_path) == rows
    name = write(tmp_path, "one.jsonl", rows[:1])
    used = [item for item in read(name, DataLocations(tmp_path), ("turns",)) if isinstance(item, RawRow)]
    assert [dict(item.values) for item in used] == rows[:1], "a list that the task reads is no list of rows"


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("rows.txt", b"x", None, "not a data file by its name; rename or convert it to .jsonl"),
        ("rows.xlsx", b"x", None, "a workbook; save it as CSV in UTF-8"),
        ("rows.zip", b"x", None, "an archive; unpack it"),
        ("rows.parquet.gz", b"x", None, "a compressed parquet file; uncompress it"),
        ("rows.json", b"[]", None, "there are no rows"),
        ("rows.json", b'[\n{"a": 1},\n{"a": }]', 3, "not JSON ("),
        (
            "rows.json",
            b'{"version": 1,\n "data": [{"a": 1}]}',
            None,
            "the rows seem to be under 'data'",
        ),
        ("rows.json", b'{"data": [{"a": 1}]}', None, "the rows seem to be under 'data': keep that list alone"),
        ("rows.jsonl", b'\n{"version": 1, "rows": [{"a": 1}, {"a": 2}]}\n\n', None, "the rows seem to be under 'rows'"),
        ("bare.csv", "text,label\nabc,low\n".encode("utf-16-le"), None, "no UTF-8 text (it has NUL bytes)"),
        ("bare.jsonl", '{"a": 1}'.encode("utf-16-be"), None, "no UTF-8 text (it has NUL bytes)"),
        ("rows.jsonl", b"[1, 2]", 1, "a list, not a JSON object"),
        ("broken-first.jsonl", b'{"a": \n{"a": 1}\n', 1, "not JSON ("),
        ("twice.jsonl", b'{"a": 1, "b": 2, "a": 3}\n', 1, "names 'a' more than once"),
        ("twice.json", b'[{"a": 1}, {"a": 1, "a": 3}]', 2, "names 'a' more than once"),
        ("latin.json", b'[{"a": "b"}, {"a": "caf\xe9"}]', 2, "not UTF-8 (byte 0xe9 in 'a')"),
        ("list-of-latin.jsonl", b'{"a": ["b", "caf\xe9"]}\n', 1, "not UTF-8 (byte 0xe9 in 'a')"),
        ("wide.jsonl", "\ufefftext".encode("utf-16"), None, "UTF-16; save it as UTF-8"),
        ("wide.csv", "text,label\n".encode("utf-16"), None, "UTF-16; save it as UTF-8"),
        ("rows.jsonl", POINTER, None, "a Git LFS pointer, and not the data; run git lfs pull"),
        ("rows.parquet", POINTER, None, "a Git LFS pointer, and not the data; run git lfs pull"),
        ("rows.jsonl.xz", POINTER, None, "a Git LFS pointer, and not the data; run git lfs pull"),
        ("rows.csv", b"/annex/objects/MD5E-s9--0.csv\n", None, "a git-annex pointer, and not the data"),
        ("rows.jsonl", b"<!DOCTYPE html><title>404</title>", None, "an HTML page, perhaps of a failed download"),
        (
            "rows.jsonl",
            gzip.compress(b"{}", mtime=0),
            None,
            "compressed with gzip, and its name does not say so; add .gz",
        ),
        ("rows.csv", bz2.compress(b"a"), None, "compressed with bzip2"),
        ("rows.csv", b"PK\x03\x04", None, "a zip archive or a workbook"),
        ("rows.jsonl", b"PAR1", None, "a parquet file by its content; name it .parquet"),
        ("rows.jsonl.zst", b"{}", 1, "not whole zstd data ("),
        ("rows.jsonl.bz2", b"{}", 1, "not whole bzip2 data ("),
        ("rows.arrow", b"ARROW1 and no more", None, "not an Arrow file"),
        ("empty.jsonl", b"", None, "there are no rows"),
        ("empty.csv", b"", None, "there are no rows"),
        ("header.csv", b"text,label\n", None, "there are no rows"),
        ("cut.parquet", b"PAR1 and no more", None, "not a parquet file"),
        ("bad.jsonl", b'{"a": 1}\n{"a": \n', 2, "not JSON ("),
        ("bad.jsonl", b"[1]\n", 1, "a list, not a JSON object"),
        ("bad.jsonl", b"null\n", 1, "null, not a JSON object"),
        ("bad.jsonl", b'"text"\n', 1, "a string, not a JSON object"),
        ("latin.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', 2, "not UTF-8 (byte 0xe9 in 'a')"),
        ("latin.csv", b"text,label\ncaf\xe9,low\n", 2, "not UTF-8"),
        ("wide.csv", b"text,label\na,low\nhello, you,low\n", 3, "3 columns, but the header has 2"),
        ("twice.csv", b"text,text\na,b\n", 1, "the header names 'text' more than once"),
        ("quote.csv", b'text,label\n"a"b,low\n', 2, "not CSV"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes, line: int | None, reason: str) -> None:
    faults = [item for item in read_all(write(tmp_path, name, content), tmp_path) if isinstance(item, ReadProblem)]
    assert [(fault.file, fault.line) for fault in faults] == [(name, line)]
    assert reason in faults[0].reason


def test_a_bad_line_costs_one_row_and_a_cut_file_its_end(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl", lines(GOOD[:1]) + b"oops\n" + lines(GOOD[1:]))
    assert [type(item) for item in read_all("rows.jsonl", tmp_path)] == [RawRow, ReadProblem, RawRow]
    write(tmp_path, "rows.jsonl.gz", lines(GOOD * 500))
    whole = (tmp_path / "rows.jsonl.gz").read_bytes()
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[:-20])
    *_, last = read_all("rows.jsonl.gz", tmp_path)
    assert isinstance(last, ReadProblem)
    assert last.fatal
    assert "not whole gzip data" in last.reason


def test_a_file_that_is_no_gzip(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(lines(GOOD))
    (fault,) = read_all("rows.jsonl.gz", tmp_path)
    assert isinstance(fault, ReadProblem)
    assert fault.reason.startswith("not whole gzip data (Not a gzipped file")


def test_missing_files_get_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl.gz", GOOD)
    (fault,) = read_all("train.jsonl", tmp_path)
    assert "no such file or folder" in fault.reason
    assert fault.reason.endswith("did you mean train.jsonl.gz?")
    (fault,) = read_all("data/train.jsonl", tmp_path)
    assert "its folder does not exist either" in fault.reason


def test_a_folder_without_data_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path, "split/notes.txt", b"x")
    (tmp_path / "hollow").mkdir()
    assert (
        "no .jsonl, .json, .csv, .tsv or .parquet file in this folder; it holds notes.txt"
        in read_all("split", tmp_path)[0].reason
    )
    assert read_all("hollow", tmp_path)[0].reason.endswith("it is empty")


def refuse() -> IO[bytes]:
    raise PermissionError(13, "Permission denied")


def test_a_file_without_permission() -> None:
    # The machine's tests may run as root, who may read every file.
    (fault,) = read_file(DataFile("rows.jsonl", "jsonl", None, 1, None, None, refuse))
    assert isinstance(fault, ReadProblem)
    assert fault.fatal
    assert fault.reason == "no permission to read it; change its mode or owner"


def test_a_claim_cannot_be_read_in_a_local_run(tmp_path: Path) -> None:
    (fault,) = read_all("pvc://models/train.jsonl", tmp_path)
    assert fault.reason == "no folder stands for claim 'models' here; add --claim models=DIR to the command"


@pytest.mark.parametrize(
    ("address", "dataset", "revision", "rest", "file"),
    [
        ("hf://org/name/train", "org/name", None, "train", None),
        ("hf://org/name@v1/default/train[:10%]", "org/name", "v1", "default/train[:10%]", None),
        ("hf://datasets/org/name/train", "org/name", None, "train", None),
        (
            "hf://org/name@v1/data/a.parquet",
            "org/name",
            "v1",
            "data/a.parquet",
            "hf://datasets/org/name@v1/data/a.parquet",
        ),
    ],
)
def test_hub_addresses(address: str, dataset: str, revision: str | None, rest: str, file: str | None) -> None:
    assert HubData.of(address) == HubData(dataset, revision, rest)
    assert HubData.of(address).file_uri == file


def test_a_hub_address_without_a_split(tmp_path: Path) -> None:
    (fault,) = read_all("hf://org/name", tmp_path)
    assert fault.reason.startswith("names no split")


def test_a_split_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path, "repo/train.jsonl", GOOD)
    rows = list(read_split("hf://here/train", str(tmp_path / "repo"), None, "train"))
    assert [dict(row.values) for row in rows if isinstance(row, RawRow)] == GOOD
    (fault,) = read_split("hf://here/dev", str(tmp_path / "repo"), None, "dev")
    assert isinstance(fault, ReadProblem)
    assert "check its name, config and split" in fault.reason


def test_class_labels_of_a_dataset_come_as_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = Features({"text": Value("string"), "label": ClassLabel(names=["low", "high"])})
    folder = tmp_path / "repo"
    folder.mkdir()
    labels = [1, None, -1]
    rows = [{"text": "a", "label": label} for label in labels]
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    read_rows = list(read_split("hf://here/train", str(folder), None, "train"))
    assert [row.values["label"] for row in read_rows if isinstance(row, RawRow)] == ["high", None, -1]


def test_texts_of_a_corpus(tmp_path: Path) -> None:
    write(tmp_path, "corpus.jsonl", [{"text": "a"}, {"text": "b"}, {"words": "c"}])
    texts = read_texts("corpus.jsonl", DataLocations(tmp_path))
    assert [next(texts), next(texts)] == ["a", "b"]
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 3: a corpus row needs a string in 'text'"):
        next(texts)
