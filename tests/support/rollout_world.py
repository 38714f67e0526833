"""A cluster as a rollout sees it: one TaskRoute, revisions with servers, gateways that count what they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multitask_api.bundle import BASELINE
from multitask_api.resource.serving import Serving
from multitask_api.routes import GatewayAck, RouteMetadata, TaskRoute, TaskRouteSpec, TaskRouteStatus
from multitask_api.serving_io.gateway_state import (
    LATENCY_BUCKETS_S,
    GatewayState,
    LabelCounts,
    RevisionCounts,
    TableVersion,
)
from multitask_api.serving_io.names import RETRY_ANNOTATION, ROLLBACK_ANNOTATION, ROLLOUT_ANNOTATION
from multitask_api.serving_io.revision import Revision, RevisionTask
from multitask_api.serving_io.verify import OtherDevice, RevisionReport, TaskFlips
from multitask_api.stage_io.results import Agreement, VerifyResult
from multitask_operator.reconciler.serving.route_copy import copy_of, restored
from multitask_operator.rollout import GoldenJob, LiveRevision, RolloutDecision, RolloutEvent, RolloutInput, advance
from multitask_operator.rollout.inputs import format_time

NAMESPACE, MODEL = "team-a", "desk"
START = 1_790_000_000.0
DRAIN = 30.0


def task(name: str, *, labels: Sequence[str] = ("no", "yes"), served_by: str = "classification") -> RevisionTask:
    """A task of a revision; its contract follows from the labels."""
    return RevisionTask(
        name=name,
        type="Classification",
        fields=("text",),
        labels=tuple(labels),
        served_by=served_by,
        metric="Accuracy",
        score=0.9,
        baseline=0.9,
        verdict="Qualified" if served_by != BASELINE else "NotQualified",
        contract="-".join(labels),
    )


def record(name: str, tasks: Sequence[RevisionTask | str]) -> Revision:
    """The record of a revision."""
    return Revision(
        revision=name,
        model=f"{NAMESPACE}/{MODEL}",
        trained=f"trained-{name}",
        generation=1,
        storage="pvc://models/desk",
        artifact=f"export/{name}",
        bundle_digest=name,
        bundle_bytes=1,
        image="image",
        tasks=tuple(item if isinstance(item, RevisionTask) else task(item) for item in tasks),
        test_data={"urgency": "rows"},
    )


def agreement(compared: int = 20, different: int = 0) -> Agreement:
    """Golden requests, and how many were answered otherwise."""
    return Agreement(compared=compared, equal=compared - different, near_ties=0, different=different)


@dataclass
class Traffic:
    """What a gateway has counted for one task and revision since the window began."""

    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    labels: LabelCounts | None = None


@dataclass
class World:
    """Everything is a plain field: a test sets what it is about."""

    serving: Serving = field(default_factory=Serving)
    annotations: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, LiveRevision] = field(default_factory=dict)
    newest: str | None = None
    route: TaskRoute | None = None
    copy: TaskRoute | None = None
    """What the operator keeps of it."""
    generation: int = 0
    gateways: tuple[str, ...] = ("gateway-0", "gateway-1")
    dead: set[str] = field(default_factory=set)
    """Gateways that neither answer nor follow the table."""
    tables: dict[str, tuple[int, TaskRouteSpec]] = field(default_factory=dict)
    """Gateway → the table that it follows."""
    traffic: dict[tuple[str, str, str, str], Traffic] = field(default_factory=dict)
    """(gateway, task, revision, window) → counts."""
    reports: dict[str, RevisionReport] = field(default_factory=dict)
    golden: dict[str, Agreement] = field(default_factory=dict)
    """Task → how its golden requests are answered. Default: as evaluated."""
    flips: dict[str, TaskFlips] = field(default_factory=dict)
    not_compared: dict[str, str] = field(default_factory=dict)
    other_device: OtherDevice | None = None
    job_failures: dict[str, str] = field(default_factory=dict)
    jobs_run: bool = True
    queued: str = ""
    """Why no further rollout of the installation may begin."""
    torn: bool = False
    """The operator is killed between the two writes of every decision: the status is written, the spec is not."""
    servers_start: bool = True
    now: float = START
    events: list[RolloutEvent] = field(default_factory=list)
    decision: RolloutDecision | None = None
    writes: int = 0
    most_live: int = 0

    # -- what happens around the operator --------------------------------------------------------------

    def trained(self, name: str, tasks: Sequence[RevisionTask | str], *, replicas: int = 2) -> World:
        """A newer revision."""
        self.revisions[name] = LiveRevision(record(name, tasks), f"desk-serve-{name}", 8001, replicas=replicas)
        self.newest = name
        return self

    def ready(self, name: str, ready: int, replicas: int | None = None) -> None:
        """So many servers are ready from now on."""
        own = self.revisions[name]
        self.revisions[name] = replace(own, ready=ready, replicas=own.replicas if replicas is None else replicas)

    def send(
        self,
        task_name: str,
        revision: str,
        requests: int,
        *,
        errors: int = 0,
        code: str = "INTERNAL",
        seconds: float = 0.04,
        gateway: str | None = None,
        labels: tuple[int, int] | None = None,
    ) -> None:
        """Requests of a task that a gateway sends to a revision, all as slow as ``seconds``."""
        gateway = gateway or self.gateways[0]
        window = self.window(task_name)
        counts = self.traffic.setdefault((gateway, task_name, revision, window), Traffic())
        counts.requests += requests
        if errors:
            counts.errors[code] = counts.errors.get(code, 0) + errors
        bucket = next(index for index, bound in enumerate((*LATENCY_BUCKETS_S, float("inf"))) if bound >= seconds)
        counts.latencies[bucket] += requests - errors
        if labels is not None:
            counts.labels = LabelCounts(right=labels[0], wrong=labels[1])

    def restart(self, gateway: str) -> None:
        """The gateway has lost what it counted."""
        self.traffic = {key: counts for key, counts in self.traffic.items() if key[0] != gateway}

    def delete_route(self) -> None:
        """Somebody deletes the TaskRoute: all gateways that are alive have no table any more."""
        self.route, self.generation = None, 0
        self.tables = {name: (-1, spec) for name, (_, spec) in self.tables.items() if name in self.dead}

    def wipe_status(self) -> None:
        """Somebody empties the status of the TaskRoute."""
        assert self.route is not None
        self.route = self.route.model_copy(update={"status": None})

    def order(self, action: str, revision: str | None = None) -> None:
        """`mtm rollout ACTION`."""
        state = self.route.status.rollout if self.route is not None and self.route.status is not None else None
        revision = revision or (state.revision if state is not None else self.newest)
        if action == "retry":
            self.annotations[RETRY_ANNOTATION] = f"{revision} {format_time(self.now)}"
        elif action == "rollback":
            self.annotations[ROLLBACK_ANNOTATION] = f"{revision}"
        else:
            self.annotations[ROLLOUT_ANNOTATION] = f"{action} {revision} {format_time(self.now)}"

    # -- what the operator does ------------------------------------------------------------------------

    def observe(self) -> RolloutInput:
        """What the operator sees."""
        return RolloutInput(
            namespace=NAMESPACE,
            model=MODEL,
            serving=self.serving,
            annotations=dict(self.annotations),
            revisions=tuple(self.revisions.values()),
            newest=self.newest,
            route=restored(self.route, self.copy),
            generation=self.generation if self.route is not None else None,
            gateways={name: self.state_of(name) for name in self.gateways},
            now=self.now,
            reports=dict(self.reports),
            job_failures=dict(self.job_failures),
            drain_seconds=DRAIN,
            queued=self.queued,
        )

    def step(self) -> bool:
        """One reconcile; whether it changed anything."""
        decision = advance(self.observe())
        self.decision = decision
        changed = self._write(decision)
        changed |= self._servers(decision)
        changed |= self._run_job(decision.golden)
        changed |= self._follow()
        self.most_live = max(self.most_live, sum(item.has_pods for item in self.revisions.values()))
        return changed

    def settle(self, most: int = 60) -> World:
        """Reconcile until nothing changes, at one moment in time."""
        for _ in range(most):
            if not self.step():
                return self
        raise AssertionError(f"no fixpoint after {most} steps: {self.decision}")

    def after(self, seconds: float) -> World:
        """Time passes, then everything settles."""
        self.now += seconds
        return self.settle()

    def _write(self, decision: RolloutDecision) -> bool:
        before = self.route
        if decision.spec is None:
            return False
        status = (before.status if before is not None else None) or TaskRouteStatus()
        decided = {name: getattr(decision, name) for name in ("rollout", "rejected", "served")}
        status = status.model_copy(update=decided)
        TaskRouteSpec.model_validate(decision.spec.model_dump())
        spec = decision.spec
        if self.torn and before is not None and status != before.status:
            spec = before.spec
        if before is None:  # an object is created without its status
            status = TaskRouteStatus()
            spec = self.copy.spec if self.copy is not None else spec
        elif spec == decision.spec:
            self.copy = copy_of(MODEL, decision)
        if before is None or before.spec != spec:
            self.generation += 1
        self.route = TaskRoute(metadata=RouteMetadata(name=MODEL), spec=spec, status=status)
        if self.route == before:
            assert not decision.events, f"an Event without a change: {decision.events}"
            return False
        if before is not None:  # nothing is posted about a table that does not exist yet
            self.events += decision.events
        self.writes += 1
        return True

    def _servers(self, decision: RolloutDecision) -> bool:
        before = dict(self.revisions)
        for name, own in before.items():
            wanted = name in decision.live
            if own.has_pods and not wanted:
                self.revisions[name] = replace(own, has_pods=False, ready=0)
            elif wanted and not own.has_pods:
                ready = own.replicas if self.servers_start else 0
                self.revisions[name] = replace(own, has_pods=True, ready=ready)
        return before != self.revisions

    def _run_job(self, job: GoldenJob | None) -> bool:
        if job is None or not self.jobs_run or job.key in self.job_failures:
            return False
        known = self.reports.get(job.key)
        if known is not None and known.revision == job.revision:
            return False
        tasks = {name: self.golden.get(name, agreement()) for name in job.tasks}
        total = {key: sum(getattr(item, key) for item in tasks.values()) for key in Agreement.model_fields}
        result = VerifyResult(tasks=tasks, **total)
        self.reports[job.key] = RevisionReport(
            revision=job.revision,
            result=result,
            previous=job.previous,
            flips=dict(self.flips),
            not_compared=dict(self.not_compared),
            other_device=self.other_device,
        )
        return True

    def _follow(self) -> bool:
        if self.route is None:
            return False
        changed = False
        acks = {ack.name: ack for ack in (self.route.status or TaskRouteStatus()).gateways}
        for name in self.gateways:
            if name not in self.dead and self.tables.get(name, (0, None))[0] != self.generation:
                self.tables[name] = (self.generation, self.route.spec)
                acks[name] = GatewayAck(name=name, observed_generation=self.generation, time=format_time(self.now))
                changed = True
        status = (self.route.status or TaskRouteStatus()).model_copy(update={"gateways": tuple(acks.values())})
        self.route = self.route.model_copy(update={"status": status})
        return changed

    # -- what a test reads -----------------------------------------------------------------------------

    def state_of(self, gateway: str) -> GatewayState | None:
        """`GET /state` of a gateway."""
        if gateway in self.dead:
            return None
        generation = self.tables.get(gateway, (0, None))[0]
        counts = tuple(
            RevisionCounts(
                task=f"{NAMESPACE}/{MODEL}/{name}",
                revision=revision,
                window=window,
                requests=item.requests,
                errors=item.errors,
                latencies=tuple(item.latencies),
                labels=item.labels,
            )
            for (own, name, revision, window), item in self.traffic.items()
            if own == gateway
        )
        table = TableVersion(namespace=NAMESPACE, name=MODEL, generation=generation)
        return GatewayState(gateway=gateway, started=START, tables=(table,), counts=counts)

    def window(self, task_name: str) -> str:
        """The window of a task in the table."""
        return next(item.window or "" for item in self.spec.tasks if item.name == task_name)

    @property
    def spec(self) -> TaskRouteSpec:
        """The table."""
        assert self.route is not None
        return self.route.spec

    @property
    def status(self) -> TaskRouteStatus:
        """The table's status."""
        assert self.route is not None
        assert self.route.status is not None
        return self.route.status

    @property
    def phase(self) -> str:
        """The rollout's phase."""
        assert self.status.rollout is not None
        return self.status.rollout.phase

    def row(self, task_name: str) -> Any:
        """A task in the rollout's state."""
        assert self.status.rollout is not None
        return next(item for item in self.status.rollout.tasks if item.name == task_name)

    @property
    def weights(self) -> Mapping[str, Mapping[str, int]]:
        """Task → revision → weight, without weights of 0."""
        return {
            entry.name: {item.revision: item.weight for item in entry.backends if item.weight}
            for entry in self.spec.tasks
        }

    @property
    def live(self) -> set[str]:
        """The revisions that have servers."""
        return {name for name, item in self.revisions.items() if item.has_pods}

    @property
    def reasons(self) -> list[str]:
        """The reasons of all Events."""
        return [event.reason for event in self.events]


def serving_one(tasks: Sequence[RevisionTask | str] = ("urgency", "stance"), **serving: Any) -> World:
    """A world in which the first revision, ``one``, has all traffic."""
    world = World(serving=Serving.model_validate(serving, by_name=True, by_alias=True))
    return world.trained("one", tasks).settle()
