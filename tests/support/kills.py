"""A program that is killed between two files."""

from __future__ import annotations

from typing import Any

from multitask_trainer.runtime.progress import FileProgressReporter


class Killed(BaseException):
    """No program handles it."""


class Kills(FileProgressReporter):
    """Ends the program ``stage`` when ``after`` files are removed."""

    def __init__(self, stage: str, after: int) -> None:
        super().__init__(stage, None)
        self.after = after

    def report(self, phase: str, **position: Any) -> None:
        if position["step"] == self.after:
            raise Killed
