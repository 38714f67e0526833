"""Every file of a folder is read, or known to hold no rows, or named in an error."""

from __future__ import annotations

import bz2
import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from multitask_trainer.data.fingerprints import HashCache, resolve_data
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.raw_rows import RawRow, ReadProblem
from multitask_trainer.data.reading import read
from support.data_builders import lines, write

ROWS = [{"text": f"row {index}", "label": "low"} for index in range(8)]


def rows_of(uri: str, root: Path) -> list[object]:
    items = list(read(uri, DataLocations(root)))
    assert [item for item in items if isinstance(item, ReadProblem)] == []
    return [dict(item.values) for item in items if isinstance(item, RawRow)]


def problem_of(uri: str, root: Path) -> str:
    (item,) = read(uri, DataLocations(root))
    assert isinstance(item, ReadProblem)
    assert item.fatal
    assert resolve_data(uri, DataLocations(root), HashCache()).problem == item.reason
    return item.reason


def shards() -> dict[str, bytes]:
    """Eight rows in files of several formats."""
    return {
        "part-0.jsonl": lines(ROWS[:2]),
        "part-1.json": b"[" + lines(ROWS[2:3]).strip() + b"]",
        "part-2.jsonl.bz2": bz2.compress(lines(ROWS[3:4])),
        "part-3.csv": b"text;label\nrow 4;low\n",
        "part-4.tsv": b"text\tlabel\nrow 5\tlow\n",
        "sub/part-5.ndjson": lines(ROWS[6:]),
    }


def companions() -> dict[str, bytes]:
    names = (
        "README.md",
        "LICENSE",
        "dataset_infos.json",
        "_SUCCESS",
        ".part-0.jsonl.crc",
        "_logs/part-9.jsonl",
        "_metadata",
        "_common_metadata",
        "_delta_log/00000000000000000000.json",
        "_committed_1234",
        "_started_1234",
        "_temporary/0/part-9.jsonl",
        "__MACOSX/part-9.jsonl",
        "sub/_SUCCESS",
        "load.py",
    )
    return dict.fromkeys(names, b"x")


def put(store: str, folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        if store == "local":
            (folder / "split" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "split" / name).write_bytes(content)
        else:
            fsspec.filesystem("memory").pipe(f"/{folder.name}/split/{name}", content)
    return "split" if store == "local" else f"memory://{folder.name}/split"


@pytest.mark.parametrize("store", ["local", "remote"])
def test_shards_of_all_formats_are_read(tmp_path: Path, store: str) -> None:
    assert rows_of(put(store, tmp_path, shards() | companions()), tmp_path) == ROWS


@pytest.mark.parametrize("store", ["local", "remote"])
def test_an_underscore_alone_hides_no_rows(tmp_path: Path, store: str) -> None:
    files = {"_half/part-0.jsonl": lines(ROWS[:3]), "_part-1.jsonl": lines(ROWS[3:5]), "part-2.jsonl": lines(ROWS[5:])}
    assert rows_of(put(store, tmp_path, files), tmp_path) == ROWS


@pytest.mark.parametrize("store", ["local", "remote"])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("part-9.xlsx", "part-9.xlsx is a workbook; save it as CSV in UTF-8"),
        ("sub/part-9.zip", "sub/part-9.zip is an archive; unpack it"),
        ("part-9.jsonl.tmp", "part-9.jsonl.tmp is not a data file by its name; rename or convert it to .jsonl"),
        ("part-9.txt", "part-9.txt is not a data file by its name"),
        ("part-9", "part-9 is not a data file by its name"),
        ("_part-9", "_part-9 is not a data file by its name"),
        ("_half/part-9.txt", "_half/part-9.txt is not a data file by its name"),
        ("part-9.jsonl.lz4", "part-9.jsonl.lz4 is not a data file by its name"),
        ("part-9.parquet.gz", "part-9.parquet.gz is a compressed parquet file; uncompress it"),
    ],
)
def test_a_file_that_nobody_can_read_is_an_error(tmp_path: Path, store: str, name: str, what: str) -> None:
    reason = problem_of(put(store, tmp_path, shards() | {name: b"x"}), tmp_path)
    assert reason.startswith(f"not every file of this folder can be read: {what}")
    assert reason.endswith("or move it out of the folder")


def test_the_same_shards_have_the_same_fingerprint_in_a_store(tmp_path: Path) -> None:
    files = shards() | {"part/x.jsonl": lines(ROWS[:1]), "part-0/x.jsonl": lines(ROWS[1:2])}
    local, remote = (put(store, tmp_path, files) for store in ("local", "remote"))
    assert rows_of(local, tmp_path) == rows_of(remote, tmp_path)
    found = [resolve_data(uri, DataLocations(tmp_path), HashCache()) for uri in (local, remote)]
    assert found[0].fingerprint == found[1].fingerprint is not None


def test_linked_files_and_folders_are_read(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/b.jsonl", ROWS[2:4])
    write(tmp_path, "more/sub/c.jsonl", ROWS[4:])
    write(tmp_path, "split/a.jsonl", ROWS[:2])
    (tmp_path / "split/b.jsonl").symlink_to(tmp_path / "elsewhere/b.jsonl")
    (tmp_path / "split/c").symlink_to(tmp_path / "more")
    assert rows_of("split", tmp_path) == ROWS


def annex_link(folder: Path) -> None:
    (folder / "part-1.jsonl").symlink_to("../.git/annex/objects/aa/bb/key")


def link_to_a_linked_folder(folder: Path) -> None:
    (folder / "part-1").symlink_to(folder / "gone")


def dangling(folder: Path) -> None:
    (folder / "part-1.jsonl").symlink_to("gone.jsonl")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "part-1.jsonl")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (dangling, "part-1.jsonl is a link to gone.jsonl, which does not exist; restore the file, or remove the link"),
        (
            annex_link,
            "part-1.jsonl is a link to ../.git/annex/objects/aa/bb/key, which does not exist; run git annex get",
        ),
        (link_to_a_linked_folder, "part-1 is a link to "),
        (pipe, "part-1.jsonl is a device or socket; remove it"),
    ],
)
def test_what_is_no_file_is_an_error(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    write(tmp_path, "split/part-0.jsonl", ROWS)
    make(tmp_path / "split")
    assert what in problem_of("split", tmp_path)


def test_a_dangling_link_given_as_the_file(tmp_path: Path) -> None:
    dangling(tmp_path)
    assert problem_of("part-1.jsonl", tmp_path).startswith("a link to gone.jsonl, which does not exist")


def test_a_link_to_a_folder_above_is_an_error_and_not_a_loop(tmp_path: Path) -> None:
    write(tmp_path, "split/sub/part-0.jsonl", ROWS)
    (tmp_path / "split/sub/again").symlink_to(tmp_path / "split")
    assert "a link to a folder that it is in; remove the link" in problem_of("split", tmp_path)
