from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multitask_trainer.data.inspection import TaskInspection, inspect_task, raise_if_unusable
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.row_validation import BadRow, RowValidator
from multitask_trainer.data.rows import Row
from multitask_trainer.errors import DataError
from support.data_builders import GOOD, data, generation, task, write


def inspected(folder: Path, definition: Any = None, **splits: Any) -> TaskInspection:
    return inspect_task(definition or task(), data(folder, **splits), DataLocations(folder))


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ({"text": "a", "label": "low"}, Row({"text": "a"}, "low")),
        ({"text": "a", "label": " low "}, Row({"text": "a"}, "low")),
        ({"text": " a ", "label": "low", "other": {}}, Row({"text": " a "}, "low")),
        ({"text": 7, "label": "low"}, Row({"text": "7"}, "low")),
        ({"text": 0.5, "label": "low"}, Row({"text": "0.5"}, "low")),
        ({"text": True, "label": "low"}, Row({"text": "true"}, "low")),
    ],
)
def test_a_good_classification_row(tmp_path: Path, values: dict[str, object], row: Row) -> None:
    assert RowValidator.of(task(), data(tmp_path)).validate(values, "train") == row


def test_labels_that_are_numbers_in_the_rows(tmp_path: Path) -> None:
    checker = RowValidator.of(task(labels=("1", "2", "true")), data(tmp_path))
    assert [checker.validate({"text": "a", "label": label}, "test").label for label in (1, "2", True)] == [
        "1",
        "2",
        "true",
    ]


@pytest.mark.parametrize(
    ("declared", "written"),
    [
        ("f\u00e2ch\u00e9", "fa\u0302che\u0301"),
        ("fa\u0302che\u0301", "f\u00e2ch\u00e9"),
        ("\uac01", "\u1100\u1161\u11a8"),  # one Hangul syllable, and its three letters
        ("\u1ec7", "e\u0302\u0323"),  # Vietnamese, the marks in the order in which they were typed
        ("\u00c5", "\u212b"),  # the letter, and the sign for an angstrom
    ],
)
def test_a_label_in_another_unicode_form_is_the_label_of_the_resource(
    tmp_path: Path, declared: str, written: str
) -> None:
    assert declared != written
    checker = RowValidator.of(task(labels=(declared, "neg")), data(tmp_path))
    assert checker.validate({"text": "a", "label": f" {written}"}, "train").label == declared


@pytest.mark.parametrize("label", ["fa\u0302che\u0301s", "F\u00c2CH\u00c9", "f\u00e2\u200bch\u00e9"])
def test_the_hint_for_an_unknown_label_knows_unicode_forms(tmp_path: Path, label: str) -> None:
    with pytest.raises(BadRow, match="is not one of the task's labels; did you mean 'f\u00e2ch\u00e9'"):
        RowValidator.of(task(labels=("f\u00e2ch\u00e9", "neg")), data(tmp_path)).validate(
            {"text": "a", "label": label}, "test"
        )


@pytest.mark.parametrize(
    ("values", "split", "targets"),
    [
        ({"target": "b"}, "train", ("b",)),
        ({"target": " b\n"}, "train", ("b",)),
        ({"target": 12}, "test", ("12",)),
        ({"targets": ["b", "c", "b "]}, "test", ("b", "c")),
        ({"targets": ["b", "c"]}, "train", ("b",)),
        ({"target": "c", "targets": ["b", "c"]}, "train", ("c",)),
        ({"target": "c", "targets": ["b", "c"]}, "test", ("b", "c")),
        ({"target": ["b", "c"]}, "validation", ("b", "c")),
    ],
)
def test_references_of_a_generation_row(tmp_path: Path, values: Any, split: str, targets: tuple[str, ...]) -> None:
    checker = RowValidator.of(generation(), data(tmp_path))
    assert checker.validate({"text": "a"} | values, split) == Row({"text": "a"}, None, targets)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": []}, "targets: must be a list with at least one string"),
        ({"targets": ["b", " "]}, "targets: holds an entry that is empty or not a string"),
        ({"targets": ["b", "\ud800"]}, "targets: half of a surrogate pair"),
        ({"target": ["\ud800"]}, "target: half of a surrogate pair"),
        ({"target": " "}, "target: empty; a row needs an answer"),
        ({}, r"target: missing \(or 'targets'\); every row needs its reference"),
    ],
)
def test_references_that_cannot_be_used(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        RowValidator.of(generation(), data(tmp_path)).validate({"text": "a"} | values, "test")


@pytest.mark.parametrize(
    ("definition", "values", "message"),
    [
        (
            task(),
            {"text": "a", "sentiment": "low", "source": "mail"},
            (
                "label: missing; every row needs its label; this one has the fields sentiment, source, text;"
                " if 'sentiment' holds the answer, set data.labelField: sentiment"
            ),
        ),
        (task(), {"text": "a", "Labels": "x", "n": 1}, "if 'Labels' holds the answer, set data.labelField: Labels"),
        (task(), {"text": "a", "mood": "x"}, "if 'mood' holds the answer, set data.labelField: mood"),
        (task(), {"text": "a", "gold label": "low"}, "if 'gold label' holds the answer, rename that field to label"),
        (task(), {"text": "a", "x": 1, "y": 2}, "if the answer has another name, set data.labelField to it"),
        (task(), {"text": "a"}, "if the answer has another name, set data.labelField to it"),
        (generation(), {"text": "a", "reply": "b"}, "if 'reply' holds the answer, set data.targetField: reply"),
        (generation(), {"text": "a", "x": 1, "y": 2}, "if the answer has another name, set data.targetField to it"),
        (task(), {"Text": "a", "label": "low", "n": 1}, "did you mean {Text} in the prompt?"),
        (
            task(),
            {"satz klasse": "a low"},
            "if 'satz klasse' are the names of several columns, separate the cells by commas and not by spaces",
        ),
        (task(), {"satz^klasse": "a^low"}, "separate the cells by commas and not by '^'"),
        (task(prompt="{satz}"), {"satz": "a"}, "if the answer has another name, set data.labelField to it"),
        (task(), {"gold text": "a", "label": "low"}, "the prompt needs it; this one has the fields gold text, label"),
        (task(), {"body": "a", "label": "low"}, "did you mean {body} in the prompt?"),
        (task(), {"x": "a", "y": "b", "label": "low"}, "the prompt needs it; this one has the fields label, x, y"),
    ],
)
def test_a_missing_field_names_the_cure(tmp_path: Path, definition: Any, values: Any, message: str) -> None:
    with pytest.raises(BadRow) as caught:
        RowValidator.of(definition, data(tmp_path)).validate(values, "train")
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_a_delimiter_is_found_without_any_field_that_the_task_names(tmp_path: Path, delimiter: str) -> None:
    name = write(tmp_path, "rows.csv", f"satz{delimiter}klasse\na{delimiter}low\n".encode())
    (problem, *_) = inspected(tmp_path, train=name).problems["train"]
    assert "this one has the fields klasse, satz" in problem
    assert f"satz{delimiter}klasse" not in problem


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        (1.0, "did you mean '1'? pandas writes whole numbers so in a column with an empty cell; write 1"),
        ("0.0", "did you mean '0'? pandas"),
        (2.0, "they are '0', '1'"),
    ],
)
def test_a_whole_number_of_pandas_is_recognised(tmp_path: Path, label: Any, hint: str) -> None:
    with pytest.raises(BadRow) as caught:
        RowValidator.of(task(labels=("0", "1")), data(tmp_path)).validate({"text": "a", "label": label}, "train")
    assert hint in str(caught.value)


def test_an_object_with_a_repeated_key_is_an_object(tmp_path: Path) -> None:
    content = b'{"text": {"a": 1, "a": 2}, "label": "low"}\n'
    (problem, *_) = inspected(tmp_path, train=write(tmp_path, "rows.jsonl", content)).problems["train"]
    assert "text: an object; write a string or a number" in problem


def test_the_fields_of_a_parquet_file_are_named_though_they_are_not_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "mood": ["low"]}), tmp_path / "rows.parquet")
    assert inspected(tmp_path, train="rows.parquet").problems["train"][0] == (
        "rows.parquet, line 1: label: missing; every row needs its label; this one has the fields mood, text;"
        " if 'mood' holds the answer, set data.labelField: mood"
    )


def test_renamed_answer_fields(tmp_path: Path) -> None:
    assert (
        RowValidator.of(task(), data(tmp_path, labelField="urgency"))
        .validate({"text": "a", "urgency": "low"}, "test")
        .label
        == "low"
    )
    row = RowValidator.of(generation(), data(tmp_path, targetField="reply")).validate(
        {"text": "a", "reply": "b"}, "train"
    )
    assert row.targets == ("b",)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_one_field_may_be_empty_but_not_all(tmp_path: Path, text: str) -> None:
    checker = RowValidator.of(task(prompt="{text} {pair}"), data(tmp_path))
    assert checker.validate({"text": "a", "pair": text, "label": "low"}, "train").fields == {"text": "a", "pair": text}
    with pytest.raises(BadRow, match="text, pair: empty"):
        checker.validate({"text": "", "pair": text, "label": "low"}, "train")


def test_every_split_is_read_and_counted(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, train=GOOD * 2)
    assert {split: len(rows) for split, rows in inspection.rows.items()} == {"train": 4, "validation": 2, "test": 2}
    assert inspection.test_rows_in_train == 2
    assert inspection.warnings == [
        "train: 2 of 4 rows repeat the input of another row",
        "test: 2 of 2 rows have an input that is in train",
    ]
    raise_if_unusable(inspection, 0, "bad_rows.jsonl")


def test_labels_that_are_not_evaluated_are_a_warning(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, test=[{"text": "new", "label": "low"}])
    assert inspection.warnings == ["test: no row has the label 'high', so it is not evaluated"]
    assert inspection.problems["test"] == []


def test_rows_with_one_fault_make_one_message(tmp_path: Path) -> None:
    rows = [*GOOD, {"label": "low"}, {"label": "low"}, *GOOD, {"label": "low"}]
    inspection = inspected(tmp_path, train=rows)
    assert inspection.problems["train"] == [
        "train.jsonl, lines 3-4, 7 (3 rows): text: missing; the prompt needs it; this one has the fields label"
    ]
    assert [bad.line for bad in inspection.bad] == [3, 4, 7]


def test_at_most_fifty_messages_a_split_and_the_rest_counted(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, train=[*GOOD, *({"text": "a", "label": f"label-{index}"} for index in range(60))])
    assert len(inspection.problems["train"]) == 51
    assert inspection.problems["train"][-1] == "… and 10 more bad rows in this split"
    assert len(inspection.bad) == 60


def test_bad_rows_within_the_limit_are_dropped(tmp_path: Path) -> None:
    bad = [*GOOD, {"text": "a", "label": "lo"}]
    inspection = inspected(tmp_path, train=bad, test=bad, maxBadRows=2)
    assert len(inspection.droppable) == 2
    raise_if_unusable(inspection, 2, "bad_rows.jsonl")
    inspection = inspected(tmp_path, train=bad, test=bad, maxBadRows=1)
    with pytest.raises(
        DataError, match=r"2 bad rows in all, and data.maxBadRows allows 1; all of them are in bad.jsonl"
    ):
        raise_if_unusable(inspection, 1, "bad.jsonl")


def test_a_file_that_breaks_off_is_never_dropped(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, train="missing.jsonl", maxBadRows=1000)
    with pytest.raises(DataError, match=r"train: missing\.jsonl: no such file or folder"):
        raise_if_unusable(inspection, 1000, "bad_rows.jsonl")


def test_a_split_of_bad_rows_only_is_empty(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, validation=[{"text": "a", "label": "medium"}], maxBadRows=5)
    assert inspection.problems["validation"] == ["no good row is left of 1; a split needs at least one"]
