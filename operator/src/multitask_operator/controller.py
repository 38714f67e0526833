"""Reconciles one key: observe, decide, act.

The first look is at what the watches have shown and costs no request. Most find nothing to do but to write the status,
which names the resource version that it was decided on, or which pod was evicted, which is gone a moment later. When
anything else is to be done, everything is read live and decided again: no object is created or deleted because of a
watch that lags behind. So it is too while something of the namespace may not be watched: nothing is known of that.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from multitask_api.cluster import DISRUPTIONS_KEY
from multitask_api.resource.model import API_VERSION
from multitask_kubernetes.client import Client
from multitask_kubernetes.errors import ClusterError, Forbidden, NotFound, read_refused
from multitask_kubernetes.reflector import REFUSAL_GRACE_SECONDS
from multitask_operator.cluster.apply import apply
from multitask_operator.cluster.cache import Cache
from multitask_operator.cluster.gateways import Gateways, needs_gateways
from multitask_operator.cluster.observe import observe
from multitask_operator.cluster.refusals import Refusals
from multitask_operator.cluster.rollout_places import RolloutPlaces
from multitask_operator.cluster.watched_reader import WatchedReader
from multitask_operator.reconciler.actions import (
    Action,
    Event,
    PatchConfigMap,
    PatchFinalizers,
    PatchStatus,
    Result,
)
from multitask_operator.reconciler.conditions import read_refused_status
from multitask_operator.reconciler.serving.queueing import takes_a_place
from multitask_operator.reconciler.state.accessors import acknowledgements, is_being_deleted
from multitask_operator.reconciler.state.cluster_state import ClusterState, RejectedWrite
from multitask_operator.settings import Settings

Reconcile = Callable[[ClusterState, Settings, float], Result]
"""What to do about a state, at a time in Unix seconds: pure."""

#: Seconds until the next reconcile after somebody else wrote in between.
CONFLICT_REQUEUE_SECONDS = 1.0

#: Seconds until the next reconcile of a model about which something may not be read.
REFUSED_REQUEUE_SECONDS = 10.0


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
    """``reconcile`` decides, purely; ``cache`` is what the watches have shown, None: everything is read live;
    ``gateways`` are asked what they have counted. ``clock`` gives Unix seconds; ``rng`` spreads the periodic
    reconciles."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        reconcile: Reconcile,
        cache: Cache | None = None,
        gateways: Gateways | None = None,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._decide = reconcile
        self._cache = cache
        self._gateways = gateways
        self._watched = WatchedReader(cache, client) if cache is not None else None
        self._clock = clock
        self._rng = rng or random.Random()
        self._refusals = Refusals()
        self._places = RolloutPlaces()

    async def reconcile(self, key: NamespacedName) -> float | None:
        """Bring the model nearer to its spec; gives the seconds until the next reconcile, None if there is no model.

        Raises ClusterError where the API server could not be asked or rejected a write.
        """
        refusal = self._cache.refusal(key.namespace) if self._cache is not None else None
        if refusal is not None:
            return await self._report_refusal(key, refusal)
        try:
            looked = await self._look(key)
        except Forbidden as error:
            if self._refusals.note(key.namespace, error, self._clock()) < REFUSAL_GRACE_SECONDS:
                raise
            return await self._report_refusal(key, error)
        if looked is None:
            return None
        cluster, result = looked
        try:
            applied = await apply(self._client, cluster, result.actions)
        except BaseException:
            self._places.release_later(str(key), self._clock())
            raise
        self._places.release(str(key))
        if applied.rejected_write is not None:
            await self._report_rejection(cluster, applied.rejected_write)
        if applied.conflict:
            return CONFLICT_REQUEUE_SECONDS
        # at random between half and all of the interval: models that were started together drift apart
        resync = self._settings.resync_seconds * self._rng.uniform(0.5, 1.0)
        return resync if result.requeue_after is None else min(resync, result.requeue_after)

    def faults(self) -> tuple[str, ...]:
        """What may not be read live, in a sentence each."""
        return self._refusals.sentences(self._clock())

    async def _look(self, key: NamespacedName) -> tuple[ClusterState, Result] | None:
        """The model's state and what to do about it; None if there is no model."""
        self._settings = self._settings.current()
        if self._watched is not None and self._cache is not None and self._cache.sees_all(key.namespace):
            cluster = await observe(self._watched, key.namespace, key.name, self._clock())
            if cluster is None:
                return None
            cluster = await self._with_gateways(cluster)
            if not is_being_deleted(cluster.model):  # what a deletion depends on is not all watched
                cluster, result = self._decided(cluster)
                if all(_is_safe(action) for action in result.actions):
                    return cluster, result
        cluster = await observe(self._client, key.namespace, key.name, self._clock())
        self._refusals.clear(key.namespace)
        if cluster is None:
            return None
        cluster = await self._with_gateways(cluster)
        cluster, result = self._decided(cluster)
        if takes_a_place(result.actions):
            self._places.take(str(key))
        return cluster, result

    def _decided(self, cluster: ClusterState) -> tuple[ClusterState, Result]:
        """The state with what concerns other models too, and what to do about it.

        Nothing is awaited here: of several workers that decide at the same time, each knows what the others begin.
        """
        if self._cache is not None:
            rolling = self._cache.rolling_models() | self._places.taken(self._clock())
            others = rolling - {f"{cluster.namespace}/{cluster.name}"}
            claims = self._cache.name_claims(cluster.namespace, cluster.name)
            cluster = dataclasses.replace(cluster, rolling_models=others, name_claims=claims)
        return cluster, self._decide(cluster, self._settings, self._clock())

    async def _with_gateways(self, cluster: ClusterState) -> ClusterState:
        """The state with what is known of the gateways: their pods, and what they have counted where that is needed."""
        if self._gateways is None or cluster.task_route is None:
            return cluster
        names = await self._gateways.existing_pods([ack["name"] for ack in acknowledgements(cluster.task_route)])
        cluster = dataclasses.replace(cluster, gateway_pods=names)
        if not needs_gateways(cluster):
            return cluster
        return dataclasses.replace(cluster, gateway_states=await self._gateways.states())

    async def _report_refusal(self, key: NamespacedName, refusal: Forbidden) -> float | None:
        """Write into the model's status what may not be read about it."""
        reader = self._watched or self._client
        try:
            model = await reader.get(API_VERSION, "MultiTaskModel", key.name, key.namespace)
        except NotFound:
            return None
        cluster = ClusterState(key.namespace, key.name, model)
        result = read_refused_status(cluster, read_refused(refusal), self._clock())
        await apply(self._client, cluster, result.actions)
        return REFUSED_REQUEUE_SECONDS

    async def _report_rejection(self, cluster: ClusterState, rejected: RejectedWrite) -> None:
        """Decide once more with the rejection in the state, write what that says of the model alone, and raise."""
        cluster = dataclasses.replace(cluster, rejected_writes=(rejected,))
        result = self._decide(cluster, self._settings, self._clock())
        about_the_model = [item for item in result.actions if isinstance(item, PatchStatus | PatchFinalizers | Event)]
        await apply(self._client, cluster, about_the_model)
        raise WriteRejected(f"cannot {rejected.verb} {rejected.kind} {rejected.name}: {rejected.message}")


def _is_safe(action: Action) -> bool:
    """Whether it may be carried out on what the watches have shown: it names a resource version and loses nothing."""
    if isinstance(action, PatchConfigMap):
        return action.data.keys() == {DISRUPTIONS_KEY}
    return isinstance(action, PatchStatus | Event)
