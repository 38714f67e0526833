"""What a plan is made from, and what a plan is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from multitask_api.stage_io.manifest import Manifest, Resolved, StageFailure
from multitask_api.stages import Graph, Node
from multitask_api.stages.versions import Versions
from multitask_operator.planner.costs import Capacity


@dataclass(frozen=True)
class Running:
    """One stage program at work; ``started`` in Unix seconds."""

    stage: str
    digest: str
    started: float
    stopping: bool = False
    gpu: str | None = None
    """The GPU that it has for itself."""
    shares_process: bool = False
    """Whether it is in the process of another one that is among those that run."""


@dataclass(frozen=True)
class Failed:
    """The last failure of one (stage, digest); ``attempts`` counts all that failed, ``when`` in Unix seconds."""

    failure: StageFailure
    digest: str
    attempts: int
    when: float
    log: str = ""


@dataclass(frozen=True)
class PlannerInput:
    """Everything that a plan may depend on. It may be stale: planning twice on it must do no harm."""

    resolved: Resolved
    manifests: Mapping[tuple[str, str], Manifest]
    versions: Versions
    """The stage versions of the release that began the run."""
    capacity: Capacity | None = None
    """None: the cluster's scheduler decides what fits where, and the pod how many threads a stage has."""
    running: tuple[Running, ...] = ()
    failures: tuple[Failed, ...] = ()
    serve: bool = True


@dataclass(frozen=True)
class StartStage:
    """Start ``node``; an executor that already made this attempt, or has (stage, digest) at work, does nothing."""

    node: Node
    threads: int
    attempt: int
    gpu: str | None = None
    """The GPU that it gets for itself; None: what there is, or none."""
    companions: tuple[Node, ...] = ()
    """Nodes of the same kind that its process trains together with it, each a first attempt."""

    @property
    def key(self) -> tuple[str, str]:
        """(stage, digest): two starts with the same key are the same start."""
        return self.node.name, self.node.digest or ""

    @property
    def each(self) -> tuple[StartStage, ...]:
        """A start for each of its nodes, without companions."""
        return tuple(replace(self, node=node, companions=()) for node in (self.node, *self.companions))


@dataclass(frozen=True)
class StopStage:
    """Ask a running stage to end (it leaves a checkpoint); nothing if it has ended."""

    stage: str
    digest: str
    reason: str

    @property
    def key(self) -> tuple[str, str]:
        """(stage, digest)."""
        return self.stage, self.digest


@dataclass(frozen=True)
class Plan:
    """What to do now, and when to plan again if nothing happens before."""

    graph: Graph
    actions: tuple[StartStage | StopStage, ...]
    requeue_after: float | None
    """Seconds until a failed stage may be tried again; always None in a cluster, where Jobs retry by themselves."""
    finished: bool
    failed: tuple[Failed, ...]

    @property
    def starts(self) -> tuple[StartStage, ...]:
        """The starts among the actions."""
        return tuple(action for action in self.actions if isinstance(action, StartStage))

    @property
    def stops(self) -> tuple[StopStage, ...]:
        """The stops among the actions."""
        return tuple(action for action in self.actions if isinstance(action, StopStage))
