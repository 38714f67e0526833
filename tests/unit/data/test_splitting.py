"""One file for all splits: rows are placed by a hash of their prompt fields."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from multitask_api.resource.tasks import DataSplit, TaskData
from multitask_api.stage_io.parameters import PrepareParameters
from multitask_trainer.data.inspection import TaskInspection, inspect_task
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.rows import input_hash
from multitask_trainer.data.splitting import assign_splits
from support.data_builders import generation, task, write

BOTH = DataSplit(validation=0.1, test=0.1)


def row(index: int, label: str | None = None) -> dict[str, str]:
    return {"text": f"message number {index}", "label": label or ("high" if index % 10 == 0 else "low")}


def places(rows: list[dict[str, str]], split: DataSplit = BOTH) -> dict[str, str]:
    """Text → split."""
    found = assign_splits(
        [input_hash({"text": item["text"]}) for item in rows], [item["label"] for item in rows], split
    )
    return {item["text"]: name for item, name in zip(rows, found, strict=True)}


def divided(folder: Path, rows: list[Any], definition: Any = None, **settings: Any) -> TaskInspection:
    uri = write(folder, "all.jsonl", rows)
    values = {"train": {"uri": uri}, "split": {"validation": 0.1, "test": 0.1}} | settings
    return inspect_task(definition or task(), TaskData.model_validate(values), DataLocations(folder))


def texts(inspection: TaskInspection) -> dict[str, list[str]]:
    return {split: [item.fields["text"] for item in rows] for split, rows in inspection.rows.items()}


@pytest.mark.parametrize("seed", range(5))
def test_each_label_gets_about_its_shares(seed: int) -> None:
    rows = [row(index) for index in range(20_000)]
    placed = places(rows, DataSplit(validation=0.2, test=0.1, seed=seed))
    for label, number in (("high", 2_000), ("low", 18_000)):
        counts = Counter(placed[item["text"]] for item in rows if item["label"] == label)
        for split, share in (("validation", 0.2), ("test", 0.1), ("train", 0.7)):
            deviation = (share * (1 - share) / number) ** 0.5
            assert counts[split] / number == pytest.approx(share, abs=4 * deviation)


@pytest.mark.parametrize("seed", range(5))
def test_a_row_stays_in_its_split_when_rows_are_added_removed_or_reordered(seed: int) -> None:
    split = DataSplit(validation=0.1, test=0.1, seed=seed)
    rows = [row(index) for index in range(1_000)]
    before = places(rows, split)
    more = [*(row(index) for index in range(1_000, 1_500)), *rows]
    random.Random(seed).shuffle(more)
    after = places(more, split)
    assert {text: after[text] for text in before} == before
    fewer = rows[::2]
    assert places(fewer, split) == {item["text"]: before[item["text"]] for item in fewer}


def test_another_share_of_one_split_moves_no_row_of_the_other() -> None:
    rows = [row(index) for index in range(1_000)]
    small, large = (places(rows, DataSplit(validation=0.1, test=share)) for share in (0.1, 0.3))
    for name in ("validation", "test"):
        assert {text for text in small if small[text] == name} <= {text for text in large if large[text] == name}
    assert [text for text in small if small[text] == "validation"] == [
        text for text in large if large[text] == "validation"
    ]


def test_the_seed_places_the_rows() -> None:
    rows = [row(index) for index in range(300)]
    assert places(rows, DataSplit(test=0.2, seed=1)) != places(rows, DataSplit(test=0.2, seed=2))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("number", [3, 4, 7])
def test_a_rare_label_is_in_every_split(seed: int, number: int) -> None:
    rows = [*(row(index, "low") for index in range(500)), *(row(index, "rare") for index in range(500, 500 + number))]
    placed = places(rows, DataSplit(validation=0.1, test=0.1, seed=seed))
    assert {placed[item["text"]] for item in rows if item["label"] == "rare"} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    "split", [DataSplit(test=0.01), DataSplit(validation=0.99), DataSplit(validation=0.01, test=0.98)]
)
def test_a_label_with_one_input_for_each_split_is_in_each(split: DataSplit) -> None:
    wanted = {"train"} | {name for name in ("validation", "test") if getattr(split, name)}
    placed = places([row(index, "low") for index in range(len(wanted))], split)
    assert set(placed.values()) == wanted


def test_rows_with_the_same_input_are_in_one_split(tmp_path: Path) -> None:
    rows = [row(index // 4) | {"text": f"{' ' * (index % 3)}MESSAGE number {index // 4}"} for index in range(2_000)]
    inspection = divided(tmp_path, rows)
    inputs = {split: {input_hash(item.fields) for item in rows} for split, rows in inspection.rows.items()}
    assert not inputs["train"] & inputs["test"]
    assert not inputs["train"] & inputs["validation"]
    assert not inputs["validation"] & inputs["test"]
    assert inspection.test_rows_in_train == 0
    assert sum(map(len, inspection.rows.values())) == 2_000


def test_a_divided_file_keeps_its_order_and_every_row(tmp_path: Path) -> None:
    rows = [row(index) for index in range(200)]
    inspection = divided(tmp_path, rows)
    assert all(problems == [] for problems in inspection.problems.values())
    order = {item["text"]: index for index, item in enumerate(rows)}
    for found in texts(inspection).values():
        assert [order[text] for text in found] == sorted(order[text] for text in found)
        assert found
    assert sorted(text for found in texts(inspection).values() for text in found) == sorted(order)


def test_a_test_file_of_its_own_beside_a_validation_share(tmp_path: Path) -> None:
    write(tmp_path, "test.jsonl", [row(index) for index in range(1_000, 1_020)])
    settings = {"test": {"uri": "test.jsonl"}, "split": {"validation": 0.2}}
    inspection = divided(tmp_path, [row(index) for index in range(200)], **settings)
    assert texts(inspection)["test"] == [f"message number {index}" for index in range(1_000, 1_020)]
    assert len(inspection.rows["train"]) + len(inspection.rows["validation"]) == 200


def test_train_rows_have_one_target_and_the_others_all_references(tmp_path: Path) -> None:
    rows = [{"text": f"message {index}", "target": "b", "targets": ["a", "b"]} for index in range(100)]
    inspection = divided(tmp_path, rows, generation())
    assert {item.targets for item in inspection.rows["train"]} == {("b",)}
    assert {item.targets for name in ("validation", "test") for item in inspection.rows[name]} == {("a", "b")}


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        (
            [row(0, "low"), row(1, "high")],
            {"validation": "no row of data.train fell to it: ", "test": "no row of data.train fell to it: "},
        ),
        ([], {"train": "all.jsonl: there are no rows"}),
    ],
)
def test_too_few_rows_to_divide(tmp_path: Path, rows: list[Any], problems: dict[str, str]) -> None:
    found = divided(tmp_path, rows, split={"validation": 0.01, "test": 0.01}).problems
    assert {split: messages[0][: len(problems[split])] for split, messages in found.items() if messages} == problems


def test_a_bad_row_is_one_of_the_file_that_is_divided(tmp_path: Path) -> None:
    inspection = divided(tmp_path, [*(row(index) for index in range(100)), {"text": "a", "label": "x"}])
    assert [(bad.split, bad.line) for bad in inspection.bad] == [("train", 101)]


def test_the_digest_of_other_resources_stays_and_the_split_is_part_of_it() -> None:
    files = {split: {"uri": f"{split}.jsonl"} for split in ("train", "validation", "test")}
    plain = PrepareParameters(task=task(), data=TaskData.model_validate(files), fingerprints={"train": "a"})
    assert sorted(plain.identity()) == ["fields", "fingerprints", "maxBadRows", "task"]
    shares = [
        {"validation": 0.1, "test": 0.1},
        {"validation": 0.1, "test": 0.1, "seed": 2},
        {"validation": 0.2, "test": 0.1},
    ]
    values = ({"train": files["train"], "split": share} for share in shares)
    identities = [
        PrepareParameters(task=task(), data=TaskData.model_validate(data), fingerprints={"train": "a"}).identity()
        for data in values
    ]
    assert identities[0]["split"] == {"validation": 0.1, "test": 0.1, "seed": 1}
    assert len({str(identity) for identity in identities}) == 3
