"""What a run prints: each step with its seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def step(what: str) -> Iterator[list[str]]:
    """Print the step and its seconds when it is done, with the last line that was added to the list."""
    began, results = time.monotonic(), list[str]()
    yield results
    print(f"{time.monotonic() - began:7.1f} s  {what}{f': {results[-1]}' if results else ''}", flush=True)


def print_line(line: str) -> None:
    """Print a line of a step that is running."""
    print(f"           {line}", flush=True)
