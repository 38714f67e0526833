"""Everything that a decision about a rollout may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from multitask_api.resource.serving import Serving
from multitask_api.routes import Backend, RoutedTask, ServedRevision, TaskRoute, TaskRouteStatus
from multitask_api.serving_io.gateway_state import GatewayState, RevisionCounts
from multitask_api.serving_io.revision import Revision, RevisionTask
from multitask_api.serving_io.verify import RevisionReport

STABLE_SECONDS = 120.0
"""Seconds that servers have to run after one of them ended by itself, before a step passes."""
DRAIN_SECONDS = 60.0
"""Seconds that servers stay after every gateway has left them, for requests that are under way."""

MOST_SERVED = 128
"""Revisions of which it is known what they have served."""


@dataclass(frozen=True)
class LiveRevision:
    """A revision whose record exists, and the servers that it has now."""

    record: Revision
    service: str
    """Name of its Service."""
    port: int
    replicas: int = 0
    """Servers that it is meant to have: 0 without a Deployment."""
    ready: int = 0
    """Its endpoints that are ready."""
    has_pods: bool = False
    """Whether its Deployment exists."""
    no_room_since: float | None = None
    """Since when a server cannot be scheduled for lack of room, in Unix seconds; None: none is known to wait for it."""
    starting: int = 0
    """Servers that have room and are not ready yet."""
    start_seconds: float = 600.0
    """Seconds after which servers that are not ready are overdue."""
    restarted: float | None = None
    """When a server last began again after it had ended by itself, in Unix seconds; infinite: one has not begun yet.
    None: none of those that exist has ended. A pod that was deleted or evicted, or whose node is lost, is another one
    afterwards, and says nothing about the revision."""

    @property
    def name(self) -> str:
        """The revision's name."""
        return self.record.revision

    @property
    def share(self) -> int:
        """The most percent of the traffic that its ready servers can take."""
        return min(100, 100 * self.ready // self.replicas) if self.replicas else 0

    def task(self, name: str) -> RevisionTask | None:
        """What it says about a task; None: it does not have the task."""
        return self._tasks.get(name)

    @cached_property
    def _tasks(self) -> Mapping[str, RevisionTask]:
        return {task.name: task for task in self.record.tasks}


@dataclass(frozen=True)
class RolloutInput:
    """What is known at one moment. All of it may be stale: a decision on it is written with preconditions."""

    namespace: str
    model: str
    serving: Serving
    annotations: Mapping[str, str]
    """Of the MultiTaskModel."""
    revisions: tuple[LiveRevision, ...]
    """All revisions that have a record, the oldest first."""
    newest: str | None
    """The revision of the newest training and pod settings; None: nothing is trained yet."""
    route: TaskRoute | None
    generation: int | None
    """``metadata.generation`` of the TaskRoute."""
    gateways: Mapping[str, GatewayState | None] | None
    """Gateway pod → its state, None if it did not answer; None instead of the mapping: the pods are not known."""
    now: float
    """Unix seconds."""
    reports: Mapping[str, RevisionReport] = field(default_factory=dict)
    """`GoldenJob.key` → what the Job reported."""
    job_failures: Mapping[str, str] = field(default_factory=dict)
    """`GoldenJob.key` → why the Job failed for good."""
    drain_seconds: float = DRAIN_SECONDS
    queued: str = ""
    """Why no further rollout of the installation may begin; empty: one may."""

    def revision(self, name: str | None) -> LiveRevision | None:
        """The revision of that name."""
        return next((item for item in self.revisions if item.name == name), None)

    @cached_property
    def status(self) -> TaskRouteStatus:
        """The TaskRoute's status; empty if there is none."""
        return (self.route.status if self.route is not None else None) or TaskRouteStatus()

    @cached_property
    def routed(self) -> Mapping[str, RoutedTask]:
        """Task → its entry in the table."""
        return {task.name: task for task in self.route.spec.tasks} if self.route is not None else {}

    @cached_property
    def table_revisions(self) -> frozenset[str]:
        """The revisions that the table names."""
        return self.route.spec.revisions if self.route is not None else frozenset()

    def is_settled(self, revision: str, task: str) -> bool:
        """Whether the revision has all traffic of the task, and no other one is left in the table."""
        entry = self.routed.get(task)
        return entry is not None and all(item.revision == revision and item.weight == 100 for item in entry.backends)

    @cached_property
    def served(self) -> tuple[ServedRevision, ...]:
        """What each revision has answered alone, that of a rollout once it is over; of revisions that still exist."""
        known = {item.revision: frozenset(item.tasks) for item in self.status.served}
        state = self.status.rollout
        if not known and state is not None and state.stable:  # written by a release that did not record it
            known = {state.stable: frozenset(self.routed)}
        passed: dict[str, frozenset[str]] = {}
        if state is not None:
            is_over = state.finished is not None
            passed[state.revision] = frozenset(row.name for row in state.tasks if is_over and row.phase == "Successful")
        found: list[ServedRevision] = []
        for item in self.revisions:
            alone = passed.get(item.name)
            if alone is None:
                alone = frozenset(name for name in self.routed if self.is_settled(item.name, name))
            has_served = alone | known.get(item.name, frozenset())
            tasks = tuple(task.name for task in item.record.tasks if task.name in has_served)
            if tasks:
                found.append(ServedRevision(revision=item.name, tasks=tasks))
        return tuple(found[-MOST_SERVED:])

    def has_served(self, revision: str, task: str) -> bool:
        """Whether the revision has answered the task alone."""
        return any(item.revision == revision and task in item.tasks for item in self.served)

    @cached_property
    def counts(self) -> tuple[RevisionCounts, ...]:
        """What the gateways have counted for this model; they count for every model of the installation."""
        own = f"{self.namespace}/{self.model}/"
        states = (state for state in (self.gateways or {}).values() if state is not None)
        return tuple(row for state in states for row in state.counts if row.task.startswith(own))

    @property
    def has_to_queue(self) -> bool:
        """Whether a rollout needs a place and there is none. Where nobody answers yet, nothing is gained by waiting."""
        return bool(self.queued) and any(item.weight for entry in self.routed.values() for item in entry.backends)

    def home(self, task: str, revision: str) -> Backend | None:
        """The backend of the task that is not ``revision``: the one to go back to."""
        entry = self.routed.get(task)
        others = [backend for backend in entry.backends if backend.revision != revision] if entry is not None else []
        return max(others, key=lambda backend: backend.weight, default=None)

    def silent_gateways(self) -> list[str] | None:
        """The gateways that have not confirmed the table as it is; None: the gateways are not known."""
        if self.gateways is None:
            return None
        if self.generation is None:  # of a table that somebody deleted, nothing is confirmed until it is there again
            return [] if self.route is None else sorted(self.gateways)
        confirmed = {ack.name for ack in self.status.gateways if ack.observed_generation >= self.generation}
        return sorted(
            name for name, state in self.gateways.items() if name not in confirmed and not self._polled(state)
        )

    def _polled(self, state: GatewayState | None) -> bool:
        own = (self.namespace, self.route.metadata.name if self.route is not None else "")
        tables = state.tables if state is not None else ()
        # Not a greater one either: a table that was deleted and made again counts from 1.
        return any((table.namespace, table.name) == own and table.generation == self.generation for table in tables)

    def drained_after(self) -> float | None:
        """Seconds until servers that the table does not name have no request left; None: a gateway is in the way."""
        silent = self.silent_gateways()
        if silent is None or silent or self.generation is None:
            return None
        known = self.gateways or {}
        times = [parse_time(ack.time) for ack in self.status.gateways if ack.name in known]
        state = self.status.rollout
        if state is not None and state.finished is not None:
            times.append(parse_time(state.finished))
        return max(0.0, max(times, default=self.now - self.drain_seconds) + self.drain_seconds - self.now)


def parse_time(stamp: str) -> float:
    """A timestamp of the API in Unix seconds; one that cannot be read is long ago."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return 0.0


def format_time(now: float) -> str:
    """Unix seconds as the API writes times, with milliseconds: steps may last only a few."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
