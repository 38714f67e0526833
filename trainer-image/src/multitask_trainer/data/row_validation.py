"""Validates and normalises raw rows. The reason for a bad row names the field and what to do."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multitask_api.resource.tasks import FIELD_NAME, TaskData, comparable_label
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.template import field_text, fields_of
from multitask_trainer.data.rows import Row

_LONE_SURROGATE = "half of a surrogate pair, which is not text; write the file again as UTF-8"


class BadRow(Exception):
    """One row that cannot be used: ``field`` and why."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


@dataclass(frozen=True)
class RowValidator:
    """Validates the rows of one task."""

    task: TaskDefinition
    data: TaskData
    fields: tuple[str, ...]
    labels: Mapping[str, str]
    """`comparable_label` of each label → the label as the resource writes it."""

    @classmethod
    def of(cls, task: TaskDefinition, data: TaskData) -> RowValidator:
        """The validator of a task whose prompt can be parsed."""
        return cls(task, data, fields_of(task.prompt), {comparable_label(label): label for label in task.labels})

    @property
    def used_fields(self) -> tuple[str, ...]:
        """All fields of a row that `validate` reads."""
        is_classification = self.task.type == "Classification"
        return (*self.fields, *((self.data.label_field,) if is_classification else (self.data.target_field, "targets")))

    def validate(self, values: Mapping[str, object], split: str, columns: Sequence[str] | None = None) -> Row:
        """The normalised row. Raises BadRow for its first problem, prompt fields before answers.

        ``columns`` are the names of all fields of the row, where ``values`` has not all of them.
        """
        absent = [name for name in self._needed(values) if name not in values]
        if absent:
            raise self._missing(absent[0], values, columns or tuple(values))
        fields = {name: _text(values, name) for name in self.fields}
        if not any(text.strip() for text in fields.values()):
            raise BadRow(", ".join(self.fields), "empty; nothing of this row would reach the model")
        if self.task.type == "Classification":
            return Row(fields, self._label(values))
        return Row(fields, None, self._targets(values, split))

    def _needed(self, values: Mapping[str, object]) -> tuple[str, ...]:
        """The fields without which this row has no input, or no answer; the prompt's first."""
        if self.task.type == "Classification":
            return (*self.fields, self.data.label_field)
        return self.fields if values.get("targets") is not None else (*self.fields, self.data.target_field)

    def _missing(self, name: str, values: Mapping[str, object], columns: Sequence[str]) -> BadRow:
        given = ", ".join(sorted(columns)[:8]) or "none"
        others = [column for column in columns if column not in self.used_fields]
        if name in self.fields:
            guess = _nearest(name, [column for column in others if re.fullmatch(FIELD_NAME, column)])
            cure = f"; did you mean {{{guess}}} in the prompt?" if guess else _several_columns(columns)
            return BadRow(name, f"missing; the prompt needs it; this one has the fields {given}{cure}")
        if self.task.type == "Classification":
            setting, need = "labelField", "missing; every row needs its label"
            holding = [column for column in others if comparable_label(str(values.get(column))) in self.labels]
            guess = holding[0] if len(holding) == 1 else _nearest(name, holding or others)
        else:
            setting, need = "targetField", "missing (or 'targets'); every row needs its reference"
            guess = _nearest(name, others)
        cure = _several_columns(columns) or _answer_cure(name, setting, guess)
        return BadRow(name, f"{need}; this one has the fields {given}{cure}")

    def _label(self, values: Mapping[str, object]) -> str:
        name = self.data.label_field
        label = _text(values, name).strip()
        known = self.labels.get(comparable_label(label))
        if known is None:
            raise BadRow(name, f"{label!r} is not one of the task's labels; {_hint(label, self.task.labels)}")
        return known

    def _targets(self, values: Mapping[str, object], split: str) -> tuple[str, ...]:
        """All references, without doubles; for training one: the target itself, or the first reference."""
        name = self.data.target_field
        many = values.get("targets") if split != "train" or values.get(name) is None else None
        if many is None and isinstance(values.get(name), list):
            many = values[name]
        elif many is not None:
            name = "targets"
        if many is None:
            target = _text(values, name).strip()
            if not target:
                raise BadRow(name, "empty; a row needs an answer to learn or to be judged by")
            return (target,)
        if not isinstance(many, list) or not many:
            raise BadRow(name, "must be a list with at least one string")
        texts = [field_text(item) for item in many]
        if any(text is None or not text.strip() for text in texts):
            raise BadRow(name, "holds an entry that is empty or not a string")
        if any(_has_lone_surrogate(text) for text in texts if text is not None):
            raise BadRow(name, _LONE_SURROGATE)
        kept = tuple(dict.fromkeys(text.strip() for text in texts if text is not None))
        return kept[:1] if split == "train" else kept


def _nearest(name: str, others: Sequence[str]) -> str | None:
    """The field that was probably meant: one with a similar name, or the only other one."""
    folded = {other.casefold(): other for other in others}
    matches = difflib.get_close_matches(name.casefold(), folded, n=1)
    if matches:
        return folded[matches[0]]
    return others[0] if len(others) == 1 else None


def _several_columns(columns: Sequence[str]) -> str:
    """What to do where the only column looks like several, because a CSV file has a delimiter that nobody expects."""
    separators = Counter(re.findall(r"[^\w\"'.-]", columns[0])) if len(columns) == 1 else Counter()
    if not separators:
        return ""
    (separator, _), *_ = separators.most_common(1)
    words = {" ": "spaces", "\xa0": "spaces"}.get(separator, repr(separator))
    return f"; if {columns[0]!r} are the names of several columns, separate the cells by commas and not by {words}"


def _answer_cure(name: str, setting: str, guess: str | None) -> str:
    if guess is None:
        return f"; if the answer has another name, set data.{setting} to it"
    if re.fullmatch(FIELD_NAME, guess) is None:
        return f"; if {guess!r} holds the answer, rename that field to {name}"
    return f"; if {guess!r} holds the answer, set data.{setting}: {guess}"


def _text(values: Mapping[str, object], name: str) -> str:
    value = values[name]
    text = field_text(value)
    if text is None:
        raise BadRow(name, f"{_kind(value)}; write a string or a number")
    if _has_lone_surrogate(text):
        raise BadRow(name, _LONE_SURROGATE)
    return text


def _has_lone_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


def _kind(value: object) -> str:
    kinds = ((type(None), "null"), (dict, "an object"), (list, "a list"), (float, "not a finite number"))
    return next((words for kind, words in kinds if isinstance(value, kind)), type(value).__name__)


def _hint(label: str, labels: tuple[str, ...]) -> str:
    whole = label.removesuffix(".0")
    if whole != label and whole in labels:
        return f"did you mean {whole!r}? pandas writes whole numbers so in a column with an empty cell; write {whole}"
    folded = {comparable_label(known).casefold(): known for known in labels}
    nearest = difflib.get_close_matches(comparable_label(label).casefold(), folded, n=1)
    if nearest:
        return f"did you mean {folded[nearest[0]]!r}?"
    shown = ", ".join(map(repr, labels[:6]))
    return f"they are {shown}{f' and {len(labels) - 6} more' if len(labels) > 6 else ''}"
