"""What all gateways together have counted for one task and one revision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from multitask_api.serving_io.gateway_state import LATENCY_BUCKETS_S, RevisionCounts

#: Errors that say nothing about the server: the caller was not allowed to ask.
NOT_THE_SERVERS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})


@dataclass(frozen=True)
class Counts:
    """Requests that have ended. Errors that callers cause themselves hit the old and the new revision alike."""

    requests: int = 0
    errors: int = 0
    latencies: tuple[int, ...] = (0,) * (len(LATENCY_BUCKETS_S) + 1)
    right: int = 0
    wrong: int = 0

    @property
    def error_rate(self) -> float:
        """The share of the requests that ended with an error; 0 without any."""
        return self.errors / self.requests if self.requests else 0.0

    def above(self, seconds: float) -> int:
        """The answers that took longer than the bucket that ``seconds`` is in."""
        first = next((index for index, bound in enumerate(LATENCY_BUCKETS_S) if bound >= seconds), None)
        return 0 if first is None else sum(self.latencies[first + 1 :])

    def quantile(self, share: float) -> float | None:
        """The duration in seconds that ``share`` of the answers stay below, by linear interpolation in its bucket."""
        total = sum(self.latencies)
        if not total:
            return None
        rank, below, low = share * total, 0, 0.0
        for count, bound in zip(self.latencies, (*LATENCY_BUCKETS_S, LATENCY_BUCKETS_S[-1]), strict=True):
            if count and below + count >= rank:
                return low + (bound - low) * (rank - below) / count
            below, low = below + count, bound
        return float(LATENCY_BUCKETS_S[-1])


def counts_of(counts: Iterable[RevisionCounts], task: str, revision: str, window: str) -> Counts:
    """The sum over all gateways. ``task``: its full name; counts of another window are of another step."""
    rows = [row for row in counts if (row.task, row.revision, row.window) == (task, revision, window)]
    latencies = [0] * (len(LATENCY_BUCKETS_S) + 1)
    for row in rows:
        for index, count in enumerate(row.latencies[: len(latencies)]):
            latencies[index] += count
    ignored = sum(count for row in rows for code, count in row.errors.items() if code in NOT_THE_SERVERS)
    return Counts(
        requests=max(0, sum(row.requests - row.in_flight for row in rows) - ignored),
        errors=sum(sum(row.errors.values()) for row in rows) - ignored,
        latencies=tuple(latencies),
        right=sum(row.labels.right for row in rows if row.labels is not None),
        wrong=sum(row.labels.wrong for row in rows if row.labels is not None),
    )
