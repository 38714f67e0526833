"""What the operator was not allowed to read live, while that is news."""

from __future__ import annotations

from typing import NamedTuple

from multitask_kubernetes.errors import Forbidden, read_refused

#: Seconds after which a refusal that nobody met again is forgotten: nothing needs that read any more.
FORGOTTEN_SECONDS = 60.0


class _Refusal(NamedTuple):
    error: Forbidden
    since: float
    last: float


class Refusals:
    """The latest refusal of each namespace. Times are in seconds, of one clock."""

    def __init__(self) -> None:
        self._known: dict[str, _Refusal] = {}

    def note(self, namespace: str, error: Forbidden, now: float) -> float:
        """A read about the namespace was refused; gives the seconds for which that has been so."""
        known = self._known.get(namespace)
        is_new = known is None or now - known.last > FORGOTTEN_SECONDS
        since = now if known is None or is_new else known.since
        self._known[namespace] = _Refusal(error, since, now)
        return now - since

    def clear(self, namespace: str) -> None:
        """Everything about the namespace could be read."""
        self._known.pop(namespace, None)

    def sentences(self, now: float) -> tuple[str, ...]:
        """What is missing, and what to do, each once."""
        met = (item.error for item in self._known.values() if now - item.last <= FORGOTTEN_SECONDS)
        return tuple(sorted({read_refused(error) for error in met}))
