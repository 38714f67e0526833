"""Reads and validates all rows of a task's three splits, and collects every problem and warning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from multitask_api.resource.tasks import DataSplit, TaskData
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.stage_io.results import SPLITS
from multitask_trainer.data.reading import DataLocations, RawRow, ReadProblem, read
from multitask_trainer.data.row_validation import BadRow, RowValidator
from multitask_trainer.data.rows import Row, input_hashes
from multitask_trainer.data.splitting import assign_splits
from multitask_trainer.errors import DataError

MAX_SHOWN = 50


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One bad row, or (``fatal``) a file that could not be read to its end."""

    split: str
    file: str
    line: int | None
    field: str | None
    reason: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.file if self.line is None else f'{self.file}, line {self.line}'}: {self.reason}"


@dataclass
class TaskInspection:
    """The good rows of one task, and what is wrong or odd with the others."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    bad: list[RowProblem] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)  # split → what makes the task unusable
    warnings: list[str] = field(default_factory=list)
    hashes: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict)
    test_rows_in_train: int = 0

    @property
    def droppable(self) -> list[RowProblem]:
        """The bad rows that ``data.maxBadRows`` may allow."""
        return [bad for bad in self.bad if not bad.fatal]


def inspect_task(task: TaskDefinition, data: TaskData, locations: DataLocations) -> TaskInspection:
    """Read and validate all rows of a task; a problem in the data is collected, not raised.

    Raises a RetryableError if the hub or a store does not answer.
    """
    checker = RowValidator.of(task, data)
    inspection = TaskInspection()
    inspection.rows = {name: [] for name in SPLITS}
    for split, source in data.sources.items():
        items = read(source.uri, locations, checker.used_fields)
        if split == "train" and data.split is not None:
            _add_divided(inspection, checker, items, data.split)
        else:
            inspection.rows[split] += (row for (row,) in _good_rows(inspection, split, checker, items, (split,)))
    inspection.hashes = {name: input_hashes(rows) for name, rows in inspection.rows.items()}
    for name in SPLITS:
        inspection.problems[name] = list(_split_problems(inspection, name, data))
    _compare_splits(inspection, task)
    return inspection


def _good_rows(
    inspection: TaskInspection,
    split: str,
    checker: RowValidator,
    items: Iterable[RawRow | ReadProblem],
    forms: Sequence[str],
) -> Iterator[tuple[Row, ...]]:
    """Each good row as a row of every split of ``forms``; the others go to ``inspection.bad``, as rows of ``split``."""
    for item in items:
        if isinstance(item, ReadProblem):
            inspection.bad.append(RowProblem(split, item.file, item.line, None, item.reason, item.fatal))
            continue
        try:
            yield tuple(checker.validate(item.values, form, item.columns) for form in forms)
        except BadRow as bad:
            inspection.bad.append(RowProblem(split, item.file, item.line, bad.field, bad.reason))


def _add_divided(
    inspection: TaskInspection, checker: RowValidator, items: Iterable[RawRow | ReadProblem], split: DataSplit
) -> None:
    """Divide the train rows. A train row has one target, and a row of the other splits has all its references."""
    forms = ("train", "test") if checker.task.type == "Generation" else ("train",)
    rows = list(_good_rows(inspection, "train", checker, items, forms))
    inputs = [int(value) for value in input_hashes(row[0] for row in rows)]
    for name, row in zip(assign_splits(inputs, [row[0].label for row in rows], split), rows, strict=True):
        inspection.rows[name].append(row[0] if name == "train" else row[-1])


def _split_problems(inspection: TaskInspection, split: str, data: TaskData) -> Iterable[str]:
    fatal = [bad for bad in inspection.bad if bad.split == split and bad.fatal]
    yield from map(str, fatal)
    rows_bad = [bad for bad in inspection.droppable if bad.split == split]
    total = len(inspection.droppable)
    if total > data.max_bad_rows and rows_bad:
        yield from _grouped_messages(rows_bad)
    if inspection.rows[split] or fatal:
        return
    if split not in data.sources and not inspection.rows["train"]:
        return  # there is nothing to divide, which the problems of train say
    if split not in data.sources:
        inputs = len(np.unique(inspection.hashes["train"]))
        yield (
            f"no row of data.train fell to it: {inputs} different inputs are too few to divide; add rows, or give"
            f" data.{split}"
        )
    else:
        yield f"no good row is left of {len(rows_bad)}; a split needs at least one"


def _grouped_messages(bad: Sequence[RowProblem]) -> Iterator[str]:
    """One message for the rows of a file that are bad for one reason; `MAX_SHOWN` messages, so many lines in each."""
    groups: dict[tuple[str, str | None, str], list[int]] = {}
    for item in bad:
        groups.setdefault((item.file, item.field, item.reason), []).append(item.line or 0)
    for (file, name, reason), lines in list(groups.items())[:MAX_SHOWN]:
        where = f"line {lines[0]}" if len(lines) == 1 else f"lines {_ranges(lines)} ({len(lines)} rows)"
        yield f"{file}, {where}: {name}: {reason}" if name else f"{file}, {where}: {reason}"
    further = list(groups.values())[MAX_SHOWN:]
    if further:
        yield f"… and {sum(map(len, further))} more bad rows in this split"


def _ranges(lines: Sequence[int]) -> str:
    """1, 2, 3, 7 as ``1-3, 7``."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:MAX_SHOWN])
    return shown if len(ranges) <= MAX_SHOWN else f"{shown}, …"


def _compare_splits(inspection: TaskInspection, task: TaskDefinition) -> None:
    """Labels that a split lacks, inputs that repeat in train, and test inputs that are in train."""
    counts = label_counts(inspection.rows)
    train = counts["train"]
    if task.type == "Classification" and inspection.rows["train"]:
        unseen = [label for label in task.labels if label not in train]
        if unseen:
            inspection.problems["train"].append(
                f"no row has the label {_list(unseen)}; add rows, or remove {_it(unseen)} from the task's labels"
            )
        for split in ("validation", "test"):
            absent = [label for label in task.labels if label not in counts[split]]
            if absent and inspection.rows[split]:
                inspection.warnings.append(f"{split}: no row has the label {_list(absent)}, so it is not evaluated")
    train_hashes = inspection.hashes["train"]
    doubles = len(train_hashes) - len(np.unique(train_hashes))
    if doubles:
        inspection.warnings.append(f"train: {doubles} of {len(train_hashes)} rows repeat the input of another row")
    inside = np.isin(inspection.hashes["test"], train_hashes)
    inspection.test_rows_in_train = int(inside.sum())
    if inspection.test_rows_in_train:
        inspection.warnings.append(
            f"test: {inspection.test_rows_in_train} of {len(inside)} rows have an input that is in train"
        )


def label_counts(rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, int]]:
    """Split → label → rows; empty dictionaries for generation."""
    return {
        split: dict(sorted(Counter(row.label for row in items if row.label is not None).items()))
        for split, items in rows.items()
    }


def characters(rows: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """Split → characters in all prompt fields."""
    return {split: sum(len(text) for row in items for text in row.fields.values()) for split, items in rows.items()}


def raise_if_unusable(inspection: TaskInspection, allowed: int, bad_rows_file: str) -> None:
    """Raise DataError with every problem, if there is one; ``bad_rows_file`` is where all bad rows are listed."""
    lines = [f"{split}: {problem}" for split, problems in inspection.problems.items() for problem in problems]
    if not lines:
        return
    bad = len(inspection.droppable)
    if bad > allowed:
        lines.append(
            f"{bad} bad row{'s' if bad > 1 else ''} in all, and data.maxBadRows allows {allowed}; all of them are in"
            f" {bad_rows_file}. Repair them, or raise data.maxBadRows to drop them"
        )
    raise DataError("\n".join(lines))


def _list(labels: Sequence[str]) -> str:
    shown = ", ".join(map(repr, labels[:10]))
    return f"{shown} and {len(labels) - 10} more" if len(labels) > 10 else shown


def _it(items: Sequence[str]) -> str:
    return "it" if len(items) == 1 else "them"
