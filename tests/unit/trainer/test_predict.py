"""``mtm predict --file`` reads what training reads, and says what it cannot read where it stands."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multitask_serving.gateway.server import running_gateway
from multitask_trainer.predict import main, read_rows
from support.unreachable_gateway import write_routes

TEXTS = ["My card, lost", "Größe über 客"]
ROWS = [{"text": text, "label": "low"} for text in TEXTS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
MARK = "\ufeff"
MTM = ["-c", "from multitask_operator.cli import main; main()"]


def separated(by: str) -> str:
    return "\n".join(
        by.join(f'"{value}"' for value in row) for row in [("text", "label"), *((t, "low") for t in TEXTS)]
    )


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


FILES: Mapping[str, tuple[Callable[[], bytes], int]] = {
    # name → content, and the line of the first row
    "rows.jsonl": (LINES.encode, 1),
    "mark.jsonl": ((MARK + LINES).encode, 1),
    "rows.ndjson": (LINES.encode, 1),
    "list.json": (json.dumps(ROWS).encode, 1),
    "rows.jsonl.gz": (lambda: gzip.compress(LINES.encode()), 1),
    "mark.jsonl.gz": (lambda: gzip.compress((MARK + LINES).encode()), 1),
    "rows.jsonl.bz2": (lambda: bz2.compress(LINES.encode()), 1),
    "rows.jsonl.xz": (lambda: lzma.compress(LINES.encode()), 1),
    "rows.jsonl.zst": (lambda: zstd(LINES.encode()), 1),
    "rows.csv": (separated(",").encode, 2),
    "mark.csv": ((MARK + separated(",")).encode, 2),
    "rows.csv.gz": (lambda: gzip.compress(separated(",").encode()), 2),
    "rows.tsv": (separated("\t").encode, 2),
    "rows.parquet": (parquet, 1),
}

WRONG: list[tuple[str, str, bytes, str]] = [
    ("a line that is no JSON", "rows.jsonl", b'{"text": "x"}\n{"text"\n', "rows.jsonl:2: not JSON ("),
    ("bytes that are no UTF-8", "rows.jsonl", b'{"text": "\xff"}\n', "rows.jsonl:1: not UTF-8 (byte 0xff in 'text')"),
    ("half a file", "rows.jsonl.gz", gzip.compress(LINES.encode())[:-9], "rows.jsonl.gz:"),
    ("a compressed file by another name", "rows.csv", gzip.compress(b"a"), "rows.csv: compressed with gzip, and its"),
    ("a workbook", "rows.xlsx", b"PK\x03\x04", "rows.xlsx: a workbook; save it as CSV in UTF-8"),
    ("no data file by its name", "rows.txt", b"x", "rows.txt: not a data file by its name"),
    (
        "a pointer of Git LFS",
        "rows.csv",
        b"version https://git-lfs.github.com/spec/v1\n",
        "rows.csv: a Git LFS pointer",
    ),
    ("an empty file", "rows.jsonl", b"", "rows.jsonl: there are no rows"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    """The routes of a gateway with one task, whose backend cannot be reached."""
    return write_routes(tmp_path / "routes.yaml")


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(here: Path, name: str):
    content, first = FILES[name]
    (here / name).write_bytes(content())
    assert [(where, values["text"]) for where, values in read_rows(name, ("text",))] == [
        (f"{name}:{first + index}", text) for index, text in enumerate(TEXTS)
    ]


def test_a_folder_is_read_in_the_order_of_its_files(here: Path):
    (here / "rows").mkdir()
    for name in ("rows/b.csv", "rows/a.jsonl.gz"):
        (here / name).write_bytes(FILES[f"rows{name[6:]}"][0]())
    locations = [where for where, _ in read_rows("rows", ("text",))]
    assert locations == ["rows/a.jsonl.gz:1", "rows/a.jsonl.gz:2", "rows/b.csv:2", "rows/b.csv:3"]


@pytest.mark.parametrize(("sentence", "name", "content", "message"), WRONG, ids=[row[0] for row in WRONG])
def test_what_cannot_be_read_is_one_line_and_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], sentence: str, name: str, content: bytes, message: str
):
    (here / name).write_bytes(content)
    assert main(["urgency", "--file", name, "--address", "127.0.0.1:1"], read_file=read_rows) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_missing_file_has_a_hint_at_the_one_that_was_meant(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "test.jsonl.gz").touch()
    assert main(["urgency", "--file", "tets.jsonl.gz", "--address", "127.0.0.1:1"], read_file=read_rows) == 2
    assert capsys.readouterr().err == (
        f"error: tets.jsonl.gz: no such file or folder ({here}/tets.jsonl.gz); did you mean test.jsonl.gz?\n"
    )


def test_all_problems_of_a_file_are_named_at_once(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "rows.jsonl").write_text('{"text": "x"}\n[1]\n' + "nothing\n" * 25)
    assert main(["urgency", "--file", "rows.jsonl", "--address", "127.0.0.1:1"], read_file=read_rows) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: 26 problems"
    assert lines[1].startswith("rows.jsonl:2: a list, not a JSON object")
    assert [line.partition(": ")[0] for line in lines[2:21]] == [f"rows.jsonl:{number}" for number in range(3, 22)]
    assert lines[21:] == ["and 6 more"]


async def test_what_is_wrong_in_a_column_that_the_task_does_not_read_is_no_problem(
    here: Path, routes: Path, capsys: pytest.CaptureFixture[str]
):
    (here / "rows.csv").write_bytes(b"text,note\nMy card,\xff\nMy parcel,\xfe\n")
    async with running_gateway(routes, "127.0.0.1:0") as gateway:
        arguments = ["urgency", "--file", "rows.csv", "--address", f"127.0.0.1:{gateway.port}", "--output", "json"]
        status = await asyncio.to_thread(main, arguments, read_file=read_rows)
    out, err = capsys.readouterr()
    assert status == 1  # the backend of this gateway cannot be reached: it was asked, for both rows
    assert [json.loads(line)["reason"] for line in out.splitlines()] == ["NO_BACKEND", "NO_BACKEND"]
    assert [line[:17] for line in err.splitlines()] == ["error: rows.csv:2", "error: rows.csv:3", "error: 2 of 2 row"]


@pytest.mark.integration
def test_mtm_predict_reads_them(here: Path):
    (here / "rows.jsonl.gz").write_bytes(FILES["mark.jsonl.gz"][0]())
    command = [sys.executable, *MTM, "predict", "urgency", "--file", "rows.jsonl.gz", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: rows.jsonl.gz:1: 127.0.0.1:1: ")
    assert done.stderr.endswith("error: 2 of 2 rows were not answered\n")
