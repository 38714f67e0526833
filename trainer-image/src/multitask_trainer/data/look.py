"""A look at a task's three splits: every row checked, everything that is wrong or odd said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from multitask_api.resource.tasks import TaskData
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.stage_io.results import SPLITS
from multitask_trainer.data.checking import BadRow, Checker
from multitask_trainer.data.reading import Fault, Places, RawRow, read
from multitask_trainer.data.rows import Row, input_hashes
from multitask_trainer.errors import DataError

SHOWN = 50


@dataclass(frozen=True, slots=True)
class Bad:
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
class TaskLook:
    """What was found of one task."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)  # split → what makes the task unusable
    warnings: list[str] = field(default_factory=list)
    hashes: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict)
    test_rows_in_train: int = 0

    @property
    def droppable(self) -> list[Bad]:
        """The bad rows that ``data.maxBadRows`` may allow."""
        return [bad for bad in self.bad if not bad.fatal]


def look(task: TaskDefinition, data: TaskData, places: Places) -> TaskLook:
    """Read and check all rows of a task; raises nothing for what stands in its data."""
    checker = Checker.of(task, data)
    found = TaskLook()
    for split in SPLITS:
        found.rows[split] = []
        for item in read(getattr(data, split).uri, places):
            _take(found, split, checker, item)
    found.hashes = {split: input_hashes(rows) for split, rows in found.rows.items()}
    for split in SPLITS:
        found.problems[split] = list(_split_problems(found, split, data.max_bad_rows))
    _across(found, task)
    return found


def _take(found: TaskLook, split: str, checker: Checker, item: RawRow | Fault) -> None:
    if isinstance(item, Fault):
        found.bad.append(Bad(split, item.file, item.line, None, item.reason, item.fatal))
        return
    try:
        found.rows[split].append(checker.row(item.values, split))
    except BadRow as bad:
        found.bad.append(Bad(split, item.file, item.line, bad.field, bad.reason))


def _split_problems(found: TaskLook, split: str, allowed: int) -> Iterable[str]:
    fatal = [bad for bad in found.bad if bad.split == split and bad.fatal]
    yield from map(str, fatal)
    rows_bad = [bad for bad in found.droppable if bad.split == split]
    total = len(found.droppable)
    if total > allowed and rows_bad:
        yield from _gathered(rows_bad)
    if not found.rows[split] and not fatal:
        yield f"no good row is left of {len(rows_bad)}; a split needs at least one"


def _gathered(bad: Sequence[Bad]) -> Iterator[str]:
    """Rows of one file that are bad for one reason make one message; SHOWN messages, SHOWN places in each."""
    groups: dict[tuple[str, str | None, str], list[int]] = {}
    for item in bad:
        groups.setdefault((item.file, item.field, item.reason), []).append(item.line or 0)
    for (file, name, reason), lines in list(groups.items())[:SHOWN]:
        place = f"line {lines[0]}" if len(lines) == 1 else f"lines {_ranges(lines)} ({len(lines)} rows)"
        yield f"{file}, {place}: {name}: {reason}" if name else f"{file}, {place}: {reason}"
    further = list(groups.values())[SHOWN:]
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
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:SHOWN])
    return shown if len(ranges) <= SHOWN else f"{shown}, …"


def _across(found: TaskLook, task: TaskDefinition) -> None:
    """What is seen only when the splits are laid side by side."""
    counts = label_counts(found.rows)
    train = counts["train"]
    if task.type == "Classification" and found.rows["train"]:
        unseen = [label for label in task.labels if label not in train]
        if unseen:
            found.problems["train"].append(
                f"no row has the label {_list(unseen)}; add rows, or remove {_it(unseen)} from the task's labels"
            )
        for split in ("validation", "test"):
            absent = [label for label in task.labels if label not in counts[split]]
            if absent and found.rows[split]:
                found.warnings.append(f"{split}: no row has the label {_list(absent)}, so it is not judged there")
    train_hashes = found.hashes["train"]
    doubles = len(train_hashes) - len(np.unique(train_hashes))
    if doubles:
        found.warnings.append(f"train: {doubles} of {len(train_hashes)} rows repeat the input of another row")
    inside = np.isin(found.hashes["test"], train_hashes)
    found.test_rows_in_train = int(inside.sum())
    if found.test_rows_in_train:
        found.warnings.append(
            f"test: {found.test_rows_in_train} of {len(inside)} rows have an input that stands in train"
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


def refuse_if_unusable(found: TaskLook, allowed: int, complete_list: str) -> None:
    """Raise DataError with every problem, if there is one; ``complete_list`` is where all bad rows stand."""
    lines = [f"{split}: {problem}" for split, problems in found.problems.items() for problem in problems]
    if not lines:
        return
    bad = len(found.droppable)
    if bad > allowed:
        lines.append(
            f"{bad} bad row{'s' if bad > 1 else ''} in all, and data.maxBadRows allows {allowed}; all of them stand in"
            f" {complete_list}. Repair them, or raise data.maxBadRows to drop them"
        )
    raise DataError("\n".join(lines))


def _list(labels: Sequence[str]) -> str:
    shown = ", ".join(map(repr, labels[:10]))
    return f"{shown} and {len(labels) - 10} more" if len(labels) > 10 else shown


def _it(items: Sequence[str]) -> str:
    return "it" if len(items) == 1 else "them"
