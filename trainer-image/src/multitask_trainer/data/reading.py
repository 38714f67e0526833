"""From an address to raw rows: a file, a folder, or a split on the hub."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.errors import UserError
from multitask_api.uris import scheme_of
from multitask_trainer.data import hub
from multitask_trainer.data.formats import read_file
from multitask_trainer.data.listing import files_at
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.raw_rows import RawRow, ReadProblem, UsedFields
from multitask_trainer.errors import DataError
from multitask_trainer.storage.uris import storage_errors

__all__ = ["DataLocations", "RawRow", "ReadProblem", "read", "read_texts"]


def read(uri: str, locations: DataLocations, fields: UsedFields = None) -> Iterator[RawRow | ReadProblem]:
    """Every row at ``uri``, in the order of the files' names; a `ReadProblem` in the place of what cannot be read.

    What is wrong with a field that is not in ``fields`` is no problem; None stands for all fields. Raises a
    RetryableError if the hub or a store does not answer.
    """
    has_rows = False
    has_fatal = False
    try:
        with storage_errors(uri):
            for item in _read(uri, locations, fields):
                has_rows = True
                has_fatal = has_fatal or (isinstance(item, ReadProblem) and item.fatal)
                yield item
    except UserError as error:
        yield ReadProblem(uri, None, str(error).removeprefix(f"{uri}: "), fatal=True)
        return
    if not has_rows and not has_fatal:
        yield ReadProblem(uri, None, "there are no rows; a split needs at least one", fatal=True)


def read_texts(uri: str, locations: DataLocations, field: str = "text") -> Iterator[str]:
    """The texts of a corpus. Raises DataError at the first row without a string in ``field``."""
    for item in read(uri, locations, (field,)):
        line = f", line {item.line}" if item.line else ""
        if isinstance(item, ReadProblem):
            raise DataError(f"{item.file}{line}: {item.reason}")
        text = item.values.get(field)
        if not isinstance(text, str):
            raise DataError(f"{item.file}{line}: a corpus row needs a string in {field!r}")
        yield text


def _read(uri: str, locations: DataLocations, fields: UsedFields) -> Iterator[RawRow | ReadProblem]:
    if scheme_of(uri) == "hf":
        data = hub.HubData.of(uri)
        if data.file_uri is None:
            yield from hub.read_split(uri, data.dataset, data.revision, data.rest, fields)
            return
        uri = data.file_uri
    for file in files_at(uri, locations):
        yield from read_file(file, fields)
