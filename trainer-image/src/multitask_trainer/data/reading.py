"""From an address to raw rows, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.uris import scheme_of
from multitask_trainer.data import hub
from multitask_trainer.data.formats import Fault, RawRow, read_file
from multitask_trainer.data.places import Places, files_at
from multitask_trainer.errors import DataError

__all__ = ["Fault", "Places", "RawRow", "read", "read_texts"]


def read(address: str, places: Places) -> Iterator[RawRow | Fault]:
    """Every row at ``address``, in the order of the files' names; what cannot be read comes as a Fault in its place."""
    found = False
    faulty = False
    try:
        for item in _read(address, places):
            found = True
            faulty = faulty or (isinstance(item, Fault) and item.fatal)
            yield item
    except DataError as error:
        yield Fault(address, None, str(error).removeprefix(f"{address}: "), fatal=True)
        return
    if not found and not faulty:
        yield Fault(address, None, "there are no rows; a split needs at least one", fatal=True)


def read_texts(address: str, places: Places, field: str = "text") -> Iterator[str]:
    """The texts of a corpus. Raises DataError at the first row without a string in ``field``."""
    for item in read(address, places):
        line = f", line {item.line}" if item.line else ""
        if isinstance(item, Fault):
            raise DataError(f"{item.file}{line}: {item.reason}")
        text = item.values.get(field)
        if not isinstance(text, str):
            raise DataError(f"{item.file}{line}: a corpus row needs a string in {field!r}")
        yield text


def _read(address: str, places: Places) -> Iterator[RawRow | Fault]:
    if scheme_of(address) == "hf":
        data = hub.HubData.of(address)
        if data.file_address is None:
            yield from hub.read_split(address, data.dataset, data.revision, data.rest)
            return
        address = data.file_address
    for file in files_at(address, places):
        yield from read_file(file)
