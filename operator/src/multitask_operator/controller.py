"""Serves one key: look, decide, act. What it knows it has read a moment ago."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from multitask_operator.cluster.apply import apply
from multitask_operator.cluster.client import Client
from multitask_operator.cluster.errors import ClusterError
from multitask_operator.cluster.observe import observe
from multitask_operator.reconciler.actions import Event, PatchFinalizers, PatchStatus, Result
from multitask_operator.reconciler.state.cluster_state import ClusterState, RejectedWrite
from multitask_operator.settings import Settings

Reconcile = Callable[[ClusterState, Settings, float], Result]
"""What to do about a state, at a time in Unix seconds: pure."""

#: Seconds until the next look after somebody else wrote in between.
CONFLICT_REQUEUE_SECONDS = 1.0


class WriteRejected(ClusterError):
    """The API server refused a write; the resource's status says so by now."""


@dataclass(frozen=True, order=True)
class NamespacedName:
    """Names one MultiTaskModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Controller:
    """``clock`` gives Unix seconds; ``rng`` spreads the periodic looks."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        decide: Reconcile,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._decide = decide
        self._clock = clock
        self._rng = rng or random.Random()

    async def reconcile(self, model: NamespacedName) -> float | None:
        """Bring the model nearer to what it should be; gives the seconds until the next look, None once it is gone.

        Raises ClusterError where the API server could not be asked or refused a write.
        """
        raw = await observe(self._client, model.namespace, model.name, self._clock())
        if raw is None:
            return None
        outcome = self._decide(raw, self._settings, self._clock())
        applied = await apply(self._client, raw, outcome.actions)
        if applied.rejected_write is not None:
            await self._tell(raw, applied.rejected_write)
        if applied.requeue_after:
            return CONFLICT_REQUEUE_SECONDS
        # at random between half and all of the interval: models that were started together drift apart
        resync = self._settings.resync_seconds * self._rng.uniform(0.5, 1.0)
        return resync if outcome.requeue_after is None else min(resync, outcome.requeue_after)

    async def _tell(self, raw: ClusterState, refusal: RejectedWrite) -> None:
        """Write what the same state with the refusal in it says of the model alone; then raise WriteRefused."""
        raw = dataclasses.replace(raw, rejected_writes=(refusal,))
        told = self._decide(raw, self._settings, self._clock())
        said = [each for each in told.actions if isinstance(each, PatchStatus | PatchFinalizers | Event)]
        await apply(self._client, raw, said)
        raise WriteRejected(f"cannot {refusal.verb} {refusal.kind} {refusal.name}: {refusal.message}")
