"""One exception tree. Every message says what is wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class MultitaskError(Exception):
    """The root of every error this product raises on purpose."""


class UserError(MultitaskError):
    """The input is wrong; trying again without changing it cannot help."""


class RetryableError(MultitaskError):
    """Storage, network or memory was not available; the same call may succeed later."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: ``path`` names the field, ``message`` the error and the next step."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidResource(UserError):
    """A resource file has problems; all of them are reported at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidFields(ValueError):
    """All problems of one record, raised by its pydantic validator; `resource.parsing` reports them one by one.

    Each path is relative to the record, as in ``data.train.uri``; '' stands for the record itself.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise `InvalidFields` if there is any problem."""
    problems = tuple(problems)
    if problems:
        raise InvalidFields(problems)
