"""The plan: which stages start, which stop, and whether the run is over. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.stage_io.results import PrepareResult
from multitask_api.stages import Graph, Node, NodeState, build
from multitask_operator.planner.costs import ALONE, ON_GPU, Capacity, Cost, cost, threads
from multitask_operator.planner.joint import joint_groups, trains_together
from multitask_operator.planner.state import Failed, Plan, PlannerInput, Running, StartStage, StopStage

#: Attempts of a stage that fails for a passing reason, and seconds until the second one. These are for `mtm run`: in
#: a cluster the Job itself retries, and a failed Job counts as one that made all its attempts.
MOST_ATTEMPTS = 3
FIRST_WAIT = 5.0
#: Stages that nothing else reads, and whose failure is told and fails nothing.
_ADVISORY = frozenset({"check"})
#: Most urgent first: what most others wait for.
_KINDS_BY_URGENCY = (
    "prepare",
    "base",
    "gradients",
    "affinity",
    "filter",
    "high-resource",
    "mixture",
    "baseline",
    "bundle",
    "evaluate",
    "export",
    "verify",
)


def plan(model: MultiTaskModel, planner_input: PlannerInput, now: float) -> Plan:
    """Decide what happens next; the same arguments give the same plan."""
    graph = build(
        model.metadata.name,
        model.spec,
        planner_input.resolved,
        planner_input.manifests,
        planner_input.versions,
        serve=planner_input.serve,
    )
    capacity = planner_input.capacity
    free = FreeCapacity.of(graph, model, planner_input.running, capacity) if capacity else None
    return plan_graph(graph, model, planner_input, now, free)


def plan_graph(
    graph: Graph, model: MultiTaskModel, planner_input: PlannerInput, now: float, free: FreeCapacity | None
) -> Plan:
    """The plan of a graph of ``model``. What it starts is taken from ``free``, which others may have taken from too."""
    failures = {(item.failure.stage, item.digest): item for item in planner_input.failures}
    suspended = model.spec.suspend
    stops = _stops(graph, planner_input, suspended=suspended)
    waits: list[float] = []
    final: list[Failed] = []
    advisory: list[Failed] = []
    ready: list[tuple[Node, int]] = []
    for node in sorted(graph.nodes, key=lambda node: _urgency(node, graph)):
        if node.state is not NodeState.READY or node.digest is None:
            continue
        failed = failures.get((node.name, node.digest))
        if failed is not None and is_final(failed):
            (advisory if node.kind in _ADVISORY else final).append(failed)
            continue
        if suspended or any(run.stage == node.name for run in planner_input.running):
            continue  # it runs, or an outdated run of it must end first: both write to the same log
        if failed is not None and (wait := retry_at(failed) - now) > 0:
            waits.append(wait)
            continue
        ready.append((node, failed.attempts + 1 if failed else 1))
    if free is None:
        starts = [StartStage(node, 1, attempt) for node, attempt in ready]
    else:
        starts = list(_fitting_starts(ready, graph, model, free))
    finished = not starts and not waits and not planner_input.running
    actions: tuple[StartStage | StopStage, ...] = (*stops, *starts)
    return Plan(
        graph=_without(graph, advisory),
        actions=actions,
        requeue_after=min(waits) if waits else None,
        finished=finished,
        failed=tuple(final),
    )


def _fitting_starts(
    ready: Sequence[tuple[Node, int]], graph: Graph, model: MultiTaskModel, free: FreeCapacity
) -> Iterator[StartStage]:
    """The first of ``ready``, nodes and their attempts, that fit into ``free``; where there are GPUs, in groups.

    A stage that failed is tried again by itself: what made it fail may be another one of its process.
    """
    capacity, count = free.capacity, len(model.spec.tasks)
    is_joint = {
        node.name: bool(capacity.gpus) and attempt == 1 and trains_together(model.spec, node.kind)
        for node, attempt in ready
    }
    companions: dict[str, tuple[Node, ...]] | None = None
    for node, attempt in ready:
        if is_joint[node.name]:
            if companions is None:  # what is more urgent has taken its places by now
                joint = [each for each, _ in ready if is_joint[each.name]]
                groups = joint_groups(joint, free.places(joint, graph, model.spec))
                companions = {group[0].name: group[1:] for group in groups}
            if node.name not in companions:
                continue  # it starts with another one
        if (taken := free.take(node, graph, model.spec)) is not None:
            others = companions.get(node.name, ()) if companions else ()
            yield StartStage(node, threads(node.kind, capacity, count), attempt, taken.gpu, others)


def _without(graph: Graph, failures: Sequence[Failed]) -> Graph:
    """The graph that does without the stages that failed."""
    reasons = {failed.failure.stage: f"it failed: {failed.failure.message}" for failed in failures}
    nodes = (
        replace(node, state=NodeState.SKIPPED, reason=reasons[node.name]) if node.name in reasons else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes)) if reasons else graph


def is_final(failed: Failed) -> bool:
    """No further attempt is made: the input or the program is at fault, or it failed too often.

    True of every failure in a cluster: its Job has failed, after retries of its own.
    """
    return failed.failure.kind != "Retryable" or failed.attempts >= MOST_ATTEMPTS


def retry_at(failed: Failed) -> float:
    """When `mtm run` tries again after a passing failure, in Unix seconds: 5, 10, 20 … seconds after it."""
    wait: float = FIRST_WAIT * 2 ** (failed.attempts - 1)
    return failed.when + wait


def _stops(graph: Graph, planner_input: PlannerInput, *, suspended: bool) -> list[StopStage]:
    """Running stages whose result is no longer wanted. A stage whose digest is not known yet goes on."""
    stops = []
    for run in planner_input.running:
        reason = "spec.suspend is true" if suspended else _outdated(graph, run.stage, run.digest)
        if reason and not run.stopping:
            stops.append(StopStage(run.stage, run.digest, reason))
    return stops


def _outdated(graph: Graph, stage: str, digest: str) -> str:
    if stage not in graph and graph.may_have(stage):
        return ""  # of which groups there will be nothing is known yet
    if stage not in graph:
        return "the resource no longer has this stage"
    wanted = graph[stage]
    if wanted.state is NodeState.SKIPPED:
        return f"nothing to do any more: {wanted.reason}"
    if wanted.digest is not None and wanted.digest != digest:
        return f"what it reads has changed (now {wanted.digest})"
    return ""


def _urgency(node: Node, graph: Graph) -> tuple[int, int, str]:
    """Sort key: urgent kinds first; within a kind the stage with most rows first, because it takes longest."""
    kind = _KINDS_BY_URGENCY.index(node.kind) if node.kind in _KINDS_BY_URGENCY else len(_KINDS_BY_URGENCY)
    rows = 0
    for name in node.needs:
        manifest = graph[name].manifest if name.startswith("prepare/") else None
        if manifest is not None:
            rows += PrepareResult.model_validate(manifest.result).rows.train
    return kind, -rows, node.name


@dataclass(frozen=True)
class Taken:
    """What a stage gets beside cores and memory."""

    gpu: str | None


@dataclass
class FreeCapacity:
    """What is left of a machine's capacity while starts are chosen."""

    capacity: Capacity
    cores: int
    memory: int
    processes: int
    alone: bool
    gpus: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph, model: MultiTaskModel, running: Sequence[Running], capacity: Capacity) -> FreeCapacity:
        free = cls.all_of(capacity)
        for run in running:
            node = graph[run.stage] if run.stage in graph else Node(run.stage, "baseline", NodeState.WAITING)
            if not run.shares_process:
                free.use(node, cost(node, graph, model.spec, capacity), run.gpu)
        return free

    @classmethod
    def all_of(cls, capacity: Capacity) -> FreeCapacity:
        """An idle machine."""
        return cls(capacity, capacity.cores, capacity.memory, 0, alone=False, gpus=capacity.gpus)

    def take(self, node: Node, graph: Graph, spec: MultiTaskModelSpec) -> Taken | None:
        """Reserve what the stage needs; None if it is not free.

        An idle machine takes any stage: waiting would not enlarge it. Where there are GPUs, a stage that uses one gets
        one for itself.
        """
        needs_gpu = bool(self.capacity.gpus) and node.kind in ON_GPU
        if self.processes:
            full = self.processes >= self.capacity.processes or self.alone or node.kind in ALONE
            if full or (needs_gpu and not self.gpus):
                return None
        needed = cost(node, graph, spec, self.capacity)
        if self.processes and (needed.cores > self.cores or needed.memory > self.memory):
            return None
        taken = Taken(self.gpus[0] if needs_gpu and self.gpus else None)
        self.use(node, needed, taken.gpu)
        return taken

    def places(self, nodes: Sequence[Node], graph: Graph, spec: MultiTaskModelSpec) -> int:
        """How many of ``nodes``, in order, it could take now."""
        trial = replace(self)
        return sum(1 for _ in takewhile(lambda node: trial.take(node, graph, spec) is not None, nodes))

    def use(self, node: Node, needed: Cost, gpu: str | None = None) -> None:
        """Count a stage that runs, on ``gpu`` if it has one for itself."""
        self.gpus = tuple(name for name in self.gpus if name != gpu)
        self.processes += 1
        self.cores -= needed.cores
        self.memory -= needed.memory
        self.alone = self.alone or node.kind in ALONE
