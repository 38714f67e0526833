"""Several problems of one record at once; pydantic carries them as one error, ``reading`` takes them apart again."""

from __future__ import annotations

from collections.abc import Iterable

from multitask_api.errors import Problem


class Problems(ValueError):
    """What a validator found: each path is relative to the record, as in ``data.train.uri`` ('' for the record)."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def refuse(problems: Iterable[Problem]) -> None:
    """Raise ``Problems`` if there is any."""
    found = tuple(problems)
    if found:
        raise Problems(found)
