"""Reconciles one key: observe, decide, act. Nothing is kept from one reconcile to the next."""

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

#: Seconds until the next reconcile after somebody else wrote in between.
CONFLICT_REQUEUE_SECONDS = 1.0


class WriteRejected(ClusterError):
    """The API server rejected a write; the resource's status says so by now."""


@dataclass(frozen=True, order=True)
class NamespacedName:
    """Names one MultiTaskModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Controller:
    """``reconcile`` decides, purely; ``clock`` gives Unix seconds; ``rng`` spreads the periodic reconciles."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        reconcile: Reconcile,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._decide = reconcile
        self._clock = clock
        self._rng = rng or random.Random()

    async def reconcile(self, key: NamespacedName) -> float | None:
        """Bring the model nearer to its spec; gives the seconds until the next reconcile, None if there is no model.

        Raises ClusterError where the API server could not be asked or rejected a write.
        """
        cluster = await observe(self._client, key.namespace, key.name, self._clock())
        if cluster is None:
            return None
        result = self._decide(cluster, self._settings, self._clock())
        applied = await apply(self._client, cluster, result.actions)
        if applied.rejected_write is not None:
            await self._report_rejection(cluster, applied.rejected_write)
        if applied.conflict:
            return CONFLICT_REQUEUE_SECONDS
        # at random between half and all of the interval: models that were started together drift apart
        resync = self._settings.resync_seconds * self._rng.uniform(0.5, 1.0)
        return resync if result.requeue_after is None else min(resync, result.requeue_after)

    async def _report_rejection(self, cluster: ClusterState, rejected: RejectedWrite) -> None:
        """Decide once more with the rejection in the state, write what that says of the model alone, and raise."""
        cluster = dataclasses.replace(cluster, rejected_writes=(rejected,))
        result = self._decide(cluster, self._settings, self._clock())
        about_the_model = [item for item in result.actions if isinstance(item, PatchStatus | PatchFinalizers | Event)]
        await apply(self._client, cluster, about_the_model)
        raise WriteRejected(f"cannot {rejected.verb} {rejected.kind} {rejected.name}: {rejected.message}")
