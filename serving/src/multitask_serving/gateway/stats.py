"""Counts of requests and errors, per task and revision."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class TaskCounts:
    """The counts of one task on one revision since the gateway started."""

    requests: int = 0
    seconds: float = 0.0
    """Total time of the successful requests."""
    errors: Counter[str] = field(default_factory=Counter)
    """By gRPC status name."""


class Stats:
    """Counts by (full task name, revision). Used from one event loop."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], TaskCounts] = {}

    def count(self, task: str, revision: str, *, seconds: float = 0.0, error: str | None = None) -> None:
        """Count a request: answered in ``seconds``, or ended with the gRPC status ``error``."""
        counts = self._counts.setdefault((task, revision), TaskCounts())
        counts.requests += 1
        if error is None:
            counts.seconds += seconds
        else:
            counts.errors[error] += 1

    def snapshot(self) -> dict[tuple[str, str], TaskCounts]:
        """A copy of all counts."""
        return {
            key: TaskCounts(counts.requests, counts.seconds, counts.errors.copy())
            for key, counts in self._counts.items()
        }
