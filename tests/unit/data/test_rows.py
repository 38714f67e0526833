from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multitask_trainer.data.rows import (
    Row,
    input_hash,
    input_hashes,
    read_inputs,
    read_rows,
    rows_digest,
    write_inputs,
    write_rows,
)
from multitask_trainer.errors import ArtifactError

ROWS = [Row({"text": "Größe 大", "pair": ""}, "a\tb"), Row({"pair": "q", "text": "p"}, None, ("one", "two"))]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path, "train", ROWS)
    write_rows(tmp_path, "test", [])
    assert read_rows(tmp_path, "train") == ROWS
    assert read_rows(tmp_path, "test") == []
    assert [row.answer for row in ROWS] == ["a\tb", "one"]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        write_rows(folder, "train", ROWS)
        write_inputs(folder, {"train": input_hashes(ROWS), "test": input_hashes([])})
        written.append([(folder / file).read_bytes() for file in ("train.parquet", "inputs.npz")])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"text": "Hello  World"}, {"text": " hello\nworld "}, True),
        ({"text": "STRASSE"}, {"text": "straße"}, True),
        ({"text": "hello"}, {"message": "hello"}, True),
        ({"text": "hello"}, {"text": "hallo"}, False),
        ({"a": "x", "b": "y"}, {"b": "y", "a": "x"}, True),
        ({"premise": "x", "hypothesis": "y"}, {"sentence1": "x", "sentence2": "y"}, True),
        ({"a": "x", "b": "y"}, {"a": "y", "b": "x"}, True),
        ({"a": "x", "b": "y"}, {"a": "x", "b": "x"}, False),
        ({"a": "x y", "b": ""}, {"a": "x", "b": "y"}, False),
    ],
)
def test_inputs_are_the_same_up_to_case_white_space_and_names(
    one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    assert (input_hash(one) == input_hash(other)) is same


def test_input_hashes_are_kept_whole(tmp_path: Path) -> None:
    hashes = {"train": input_hashes(ROWS), "test": np.array([2**64 - 1], np.uint64)}
    write_inputs(tmp_path, hashes)
    stored = read_inputs(tmp_path)
    assert {split: stored[split].tolist() for split in stored} == {split: hashes[split].tolist() for split in hashes}
    assert {stored[split].dtype for split in stored} == {np.dtype(np.uint64)}


@pytest.mark.parametrize(
    "changed",
    [
        [ROWS[1], ROWS[0]],
        ROWS[:1],
        [Row({"text": "Größe 大", "pair": ""}, "b"), ROWS[1]],
        [ROWS[0], Row(ROWS[1].fields, None, ("one",))],
    ],
)
def test_the_digest_sees_order_count_label_and_targets(changed: list[Row]) -> None:
    assert rows_digest(ROWS) != rows_digest(changed)


def test_the_digest_does_not_see_the_order_of_fields() -> None:
    assert rows_digest([Row({"a": "1", "b": "2"}, "x")]) == rows_digest([Row({"b": "2", "a": "1"}, "x")])


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"train\.parquet: cannot be read .* prepare runs again"):
        read_rows(tmp_path, "train")
