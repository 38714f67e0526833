"""Which models begin a rollout right now: several workers decide at the same time, and none sees the others' writes."""

from __future__ import annotations

import math

#: Seconds after which a write whose answer never came has been shown by a watch, or was not made.
UNKNOWN_SECONDS = 10.0


class RolloutPlaces:
    """Models, NAMESPACE/NAME, for which a write is under way that begins a rollout or lets one go on.

    One is taken in the same step in which it is decided, before anything is awaited.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def take(self, model: str) -> None:
        """The write is about to be made."""
        self._until[model] = math.inf

    def release(self, model: str) -> None:
        """The write is over: what was written is in the cache."""
        self._until.pop(model, None)

    def release_later(self, model: str, now: float) -> None:
        """The write failed; whether it was made is not known."""
        if model in self._until:
            self._until[model] = now + UNKNOWN_SECONDS

    def taken(self, now: float) -> frozenset[str]:
        """Those that others have to count."""
        return frozenset(model for model, until in self._until.items() if until > now)
