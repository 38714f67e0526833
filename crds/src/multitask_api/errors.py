"""One exception tree. Every message says what is wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MultitaskError(Exception):
    """The root of every error this product raises on purpose."""


class UserError(MultitaskError):
    """The input is wrong; trying again without changing it cannot help."""


class RetryableError(MultitaskError):
    """The world was not ready (storage, network, memory); the same call may succeed later."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: ``path`` names the place, ``message`` the fault and the next step."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidResource(UserError):
    """A resource file has problems; all of them are reported at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
