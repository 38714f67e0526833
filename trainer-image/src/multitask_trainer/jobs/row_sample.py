"""How many training rows tasks have, and how long they are: what plans estimate with before anything is measured."""

from __future__ import annotations

from multitask_api.errors import RetryableError, UserError
from multitask_api.estimates.row_tokens import estimated_tokens
from multitask_api.resource import MultiTaskModelSpec, TaskSpec
from multitask_api.stage_io.manifest import RowSample
from multitask_api.template import Field, field_text, parse_template
from multitask_trainer.data.reading import DataLocations, RawRow, read

MOST_ROWS = 10_000
"""Rows of a task that are read at the most."""
MOST_ROWS_IN_ALL = 100_000
"""Rows of all tasks: a second of reading."""


def sample_rows(spec: MultiTaskModelSpec, locations: DataLocations) -> dict[str, RowSample]:
    """Task → its first training rows; without tasks whose data is not on this machine, or which cannot be read."""
    most = min(MOST_ROWS, max(100, MOST_ROWS_IN_ALL // max(1, len(spec.tasks))))
    samples = {task.name: _sample(task, locations, spec.training.max_length, most) for task in spec.tasks}
    return {name: sample for name, sample in samples.items() if sample is not None}


def _sample(task: TaskSpec, locations: DataLocations, max_length: int, most: int) -> RowSample | None:
    """None if nothing can be read of it here."""
    if task.prompt is None:
        return None
    answer = task.data.label_field if task.type == "Classification" else task.data.target_field
    names = [part.name for part in parse_template(task.prompt) if isinstance(part, Field)]
    literals = sum(len(part.encode()) for part in parse_template(task.prompt) if isinstance(part, str))
    count, tokens, is_complete = 0, 0.0, True
    try:
        uri = task.data.sources["train"].uri
        if locations.local_path(uri) is None:
            return None
        for item in read(uri, locations, (*names, answer, "targets")):
            if not isinstance(item, RawRow) or any(name not in item.values for name in names):
                continue  # what is wrong with it, the row checks say
            if count == most:
                is_complete = False
                break
            count += 1
            size = literals + sum(_size(item.values.get(name)) for name in names) + _answer_size(item, answer)
            tokens += min(max_length, estimated_tokens(size))
    except (UserError, RetryableError):
        return None
    return RowSample(rows=count, is_complete=is_complete, tokens=tokens / count) if count else None


def _answer_size(row: RawRow, name: str) -> int:
    """Bytes of the answer that is trained on: the first of several."""
    value = row.values.get(name)
    several = value if isinstance(value, list) else row.values.get("targets") if value is None else None
    return _size(several[0] if isinstance(several, list) and several else value)


def _size(value: object) -> int:
    # Half a surrogate pair is no UTF-8.
    return len((field_text(value) or "").encode(errors="replace"))
