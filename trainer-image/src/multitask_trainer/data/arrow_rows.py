"""Rows from parquet and Arrow files: the columns that are used, value by value where a column cannot be converted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from multitask_trainer.data.raw_rows import RawRow, ReadProblem, UsedFields, is_used, not_utf8, repeated_fields

BATCH = 4096
_CONVERSION_ERRORS = (ValueError, ArithmeticError, LookupError, TypeError, pa.ArrowException)
"""What pyarrow raises for one value: bytes that are no UTF-8, a date after the year 9999, an unknown time zone."""

_TEXT_KINDS = (
    (pa.types.is_string, pa.binary()),
    (pa.types.is_large_string, pa.large_binary()),
    (pa.types.is_string_view, pa.binary_view()),
)


@dataclass(frozen=True)
class _Unreadable:
    reason: str


def read_parquet(name: str, content: IO[bytes], fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    """The rows of a parquet file. Columns that are not used are not read from it at all."""
    with pq.ParquetFile(content) as file:
        names = file.schema_arrow.names
        used = _used(names, fields)
        batches = file.iter_batches(batch_size=BATCH, columns=used)
        try:
            yield from _rows(name, names, batches, fields)
        except pa.ArrowInvalid as error:
            # pyarrow decodes categories with a small index itself, and does not say in which row it could not.
            categories = [column for column in used if pa.types.is_dictionary(file.schema_arrow.field(column).type)]
            if not categories or "UTF8" not in str(error):
                raise
            reason = f"{' or '.join(categories)}: a category is not UTF-8; save the column as text in UTF-8"
            yield ReadProblem(name, None, reason, fatal=True)


def read_arrow(name: str, content: IO[bytes], fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    """The rows of an Arrow IPC file, as `datasets.Dataset.save_to_disk` (a stream) and Feather 2 (a file) write it."""
    is_file = content.read(6) == b"ARROW1"
    content.seek(0)
    with pa.ipc.open_file(content) if is_file else pa.ipc.open_stream(content) as reader:
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else iter(reader)
        yield from _rows(name, reader.schema.names, batches, fields)


def _rows(
    name: str, names: Sequence[str], batches: Iterable[Any], fields: UsedFields
) -> Iterator[RawRow | ReadProblem]:
    repeated = repeated_fields(names, fields)
    if repeated is not None:
        reason = f"has more than one column {repeated}; rename the columns"
        yield ReadProblem(name, None, reason, fatal=True)
        return
    number = 0
    used, all_names = _used(names, fields), tuple(names)
    for batch in batches:
        columns = {column: _values(batch.column(column)) for column in used}
        for index in range(batch.num_rows):
            number += 1
            values = {column: items[index] for column, items in columns.items()}
            bad = next(((key, value) for key, value in values.items() if isinstance(value, _Unreadable)), None)
            if bad is None:
                yield RawRow(name, number, values, all_names)
            else:
                yield ReadProblem(name, number, f"{bad[0]}: {bad[1].reason}")


def _used(names: Sequence[str], fields: UsedFields) -> list[str]:
    return [name for name in dict.fromkeys(names) if is_used(name, fields)]


def _values(column: Any) -> list[object]:
    """The values of a column. Raises ArrowInvalid if its buffers are not sound.

    An Arrow file's word for lengths and offsets is taken without looking, and a wrong one would end the process.
    """
    column.validate()
    _as_bytes(column).validate(full=True)
    try:
        return list(column.to_pylist())
    except _CONVERSION_ERRORS:
        return [_value(scalar) for scalar in column]


def _as_bytes(column: Any) -> Any:
    """A column with bytes for strings, in lists and dictionaries too: whether they are UTF-8 is asked of each value."""
    kind = _bytes_for_strings(column.type)
    return column if kind == column.type else column.view(kind)


def _bytes_for_strings(kind: Any) -> Any:
    for is_text, plain in _TEXT_KINDS:
        if is_text(kind):
            return plain
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _bytes_for_strings(kind.value_type), ordered=kind.ordered)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_for_strings(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_bytes_for_strings(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_bytes_for_strings(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_bytes_for_strings(kind.value_type)), kind.list_size)
    return kind


def _value(scalar: Any) -> object:
    try:
        value: object = scalar.as_py()
    except UnicodeDecodeError as error:
        return _Unreadable(not_utf8(error.object[error.start]))
    except _CONVERSION_ERRORS as error:
        return _Unreadable(f"a {scalar.type} that cannot be converted ({error}); write it as text")
    return value
