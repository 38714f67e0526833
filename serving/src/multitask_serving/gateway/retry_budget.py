"""Bounds how many requests are sent again, so that retries do not bring down the servers that are left."""

from __future__ import annotations

import time
from collections.abc import Callable

PER_REQUEST = 0.2
PER_SECOND = 5.0
CAPACITY = 100.0
"""Of retries: enough for the calls that run on one server when that ends."""


class RetryBudget:
    """A bucket of retries. Each request adds a part of one, so that retries are at most that part of a steady load;
    time adds some, so that a rare request may be sent again too. ``clock`` gives seconds and is monotonic."""

    def __init__(
        self,
        per_request: float = PER_REQUEST,
        per_second: float = PER_SECOND,
        capacity: float = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_request, self._per_second, self._capacity = per_request, per_second, capacity
        self._clock = clock
        self._left = capacity
        self._at = clock()

    def request(self) -> None:
        """A request has come in."""
        self._left = min(self._capacity, self._left + self._per_request)

    def allows_retry(self) -> bool:
        """Take one retry, if there is one."""
        now = self._clock()
        self._left = min(self._capacity, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
