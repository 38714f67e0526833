"""Counts of requests, per task and revision: since the gateway started, and since the task's window began.

A *window* is a step of a rollout: the operator gives each a name of its own in the route table, and compares revisions
by what was counted in it. Labels come later than that: they are counted from the beginning of the rollout.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace

from multitask_api.serving_io.gateway_state import LATENCY_BUCKETS_S, LabelCounts, RevisionCounts
from multitask_serving.gateway.routes import RouteTable

TaskRevision = tuple[str, str]
"""Full name of a task, and a revision."""


@dataclass(slots=True)
class TaskCounts:
    """What one task has had from one revision."""

    requests: int = 0
    """Sent to the revision: also those that failed, and those that have not ended."""
    in_flight: int = 0
    """Those that have not ended."""
    seconds: float = 0.0
    """Total time of the successful requests."""
    errors: Counter[str] = field(default_factory=Counter)
    """By gRPC status name."""
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    """Successful requests by duration: one count for each of `LATENCY_BUCKETS_S`, and one above."""
    labels: LabelCounts | None = None
    """Answers whose true label was reported; None: none was."""

    @property
    def successes(self) -> int:
        """The requests that were answered."""
        return self.requests - self.in_flight - self.errors.total()

    def begin(self) -> None:
        """One more request."""
        self.requests += 1
        self.in_flight += 1

    def end(self, seconds: float, error: str | None) -> None:
        """One of them took so long, and ended with a gRPC status or successfully."""
        self.in_flight -= 1
        if error is None:
            self.seconds += seconds
            self.latencies[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        else:
            self.errors[error] += 1

    def withdraw(self) -> None:
        """One of them was answered by another server after all."""
        self.requests -= 1
        self.in_flight -= 1

    def label(self, *, is_right: bool) -> None:
        """The true label of an answer has come."""
        before = self.labels or LabelCounts()
        self.labels = LabelCounts(right=before.right + is_right, wrong=before.wrong + (not is_right))

    def copy(self) -> TaskCounts:
        """Counts that do not change with these."""
        return replace(self, errors=self.errors.copy(), latencies=list(self.latencies))


class CountedRequest:
    """A request that was sent to a revision; it counts in the window in which it began.

    The total has what servers did, a window what callers got. So they differ in a request that was sent to another
    server: each attempt counts in the total, but in the window only how the request ended.
    """

    def __init__(self, total: TaskCounts, in_window: TaskCounts | None = None) -> None:
        self._total = total
        self._in_window = in_window
        self._error: str | None = None
        for each in (total, in_window):
            if each is not None:
                each.begin()

    def end(self, *, seconds: float = 0.0, error: str | None = None) -> None:
        """It was answered in ``seconds``, or ended with the gRPC status ``error``."""
        for each in (self._total, self._in_window):
            if each is not None:
                each.end(seconds, error)

    def fail(self, error: str) -> None:
        """The server failed with that gRPC status; `settle` says what became of the request."""
        self._total.end(0.0, error)
        self._error = error

    def settle(self, *, failed: bool) -> None:
        """The request has ended after `fail`: for the caller it failed, or another server had the say."""
        if self._in_window is None:
            return
        if failed:
            self._in_window.end(0.0, self._error)
        else:
            self._in_window.withdraw()


class Stats:
    """Counts by (full task name, revision). Used from one event loop."""

    def __init__(self) -> None:
        self._total: dict[TaskRevision, TaskCounts] = {}
        self._in_window: dict[TaskRevision, TaskCounts] = {}
        self._windows: dict[str, str] = {}

    def follow(self, table: RouteTable) -> None:
        """Another table counts from now on: a task whose window is another one begins at 0, except for its labels if
        that is a step of the same rollout. What is not routed any more is forgotten once its last request has ended.
        """
        windows = {route.full_name: route.task.window or "" for route in table.routes}
        routed = {(route.full_name, backend.revision) for route, backend in table.backends()}
        before, self._in_window = self._in_window, {}
        for key, counts in before.items():
            old, new = self._windows.get(key[0]), windows.get(key[0])
            if new is not None and new == old:
                self._in_window[key] = counts
            elif new is not None and old is not None and rollout_of(new) == rollout_of(old) and counts.labels:
                self._in_window[key] = TaskCounts(labels=counts.labels)
        for key in routed:
            self._in_window.setdefault(key, TaskCounts())
        self._total = {key: counts for key, counts in self._total.items() if key in routed or counts.in_flight}
        self._windows = windows

    def begin(self, task: str, revision: str, *, pinned: bool = False) -> CountedRequest:
        """A request is sent to the revision. ``pinned``: the caller asked for it, so it is no sample of the traffic,
        and counts in no window."""
        total = self._total.setdefault((task, revision), TaskCounts())
        if pinned:
            return CountedRequest(total)
        return CountedRequest(total, self._in_window.setdefault((task, revision), TaskCounts()))

    def count_label(self, task: str, revision: str, window: str, *, is_right: bool) -> bool:
        """The true label of an answer has come that was given in ``window``; whether that is one of this rollout."""
        now = self._windows.get(task)
        if now is None or rollout_of(now) != rollout_of(window):
            return False
        for counts in (self._total, self._in_window):
            counts.setdefault((task, revision), TaskCounts()).label(is_right=is_right)
        return True

    def snapshot(self) -> dict[TaskRevision, TaskCounts]:
        """A copy of all counts since the start."""
        return {key: counts.copy() for key, counts in self._total.items()}

    def window_counts(self) -> tuple[RevisionCounts, ...]:
        """What was counted in the windows of now, sorted by task and revision; also of revisions that only have
        requests which have not ended."""
        running = {key: counts.in_flight for key, counts in self._total.items() if counts.in_flight}
        return tuple(
            RevisionCounts(
                task=key[0],
                revision=key[1],
                window=self._windows.get(key[0], ""),
                requests=counts.requests,
                errors=dict(sorted(counts.errors.items())),
                latencies=tuple(counts.latencies),
                in_flight=counts.in_flight,
                running=running.get(key, 0),
                labels=counts.labels,
            )
            for key in sorted(self._in_window.keys() | running.keys())
            for counts in (self._in_window.get(key, _NOTHING),)
        )


def rollout_of(window: str) -> str:
    """The rollout that a window is a step of: the part before the slash."""
    return window.partition("/")[0]


_NOTHING = TaskCounts()
