"""A text file of the installation that is followed: another one may be put there while the program runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TextFile:
    """A file and what was in it when it was last read."""

    path: str
    text: str

    @classmethod
    def read(cls, path: str) -> TextFile:
        """Raises OSError and UnicodeError."""
        return cls(path, Path(path).read_text("utf-8"))

    def current(self) -> TextFile:
        """As it is now. One that is gone, empty or no text counts as not changed: it is being replaced."""
        try:
            file = self.read(self.path)
        except (OSError, UnicodeError):
            return self
        return file if file.text.strip() else self
