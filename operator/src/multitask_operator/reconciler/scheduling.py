"""Which units come next: starts are grouped, Jobs that are in the way go, and no more run at once than may. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from multitask_api.stages import ArtifactKey, Graph, Node
from multitask_operator.planner import StartStage, StopStage
from multitask_operator.reconciler.stage_job import Phase, StageJob

#: Their work takes seconds, so all that are ready share a Job: a pod's start costs more than they do.
TOGETHER = frozenset({"prepare"})


@dataclass(frozen=True)
class JobBatch:
    """The stages of one unit that is to be started, in the order in which they run."""

    kind: str
    nodes: tuple[Node, ...]
    restarts: StageJob | None = None
    """A unit whose ConfigMap stands and whose Job is gone: it gets another one."""

    @property
    def keys(self) -> tuple[ArtifactKey, ...]:
        """(stage, digest) of each."""
        return tuple((node.name, node.digest or "") for node in self.nodes)


def job_batches(starts: Sequence[StartStage], graph: Graph, units: Sequence[StageJob]) -> list[JobBatch]:
    """What ``starts`` become: a lost unit whose stages are all still wanted is taken up again as it was."""
    found: list[JobBatch] = []
    open_keys = {start.key: start.node for start in starts}
    for unit in units:
        if unit.phase is Phase.JOB_MISSING and any(key in open_keys for key in unit.keys) and wanted(unit, graph):
            found.append(JobBatch(unit.kind, tuple(graph[stage] for stage, _ in unit.keys), unit))
            for key in unit.keys:
                open_keys.pop(key, None)
    together: dict[str, list[Node]] = {}
    for node in open_keys.values():
        if node.kind in TOGETHER:
            together.setdefault(node.kind, []).append(node)
        else:
            found.append(JobBatch(node.kind, (node,)))
    found += [JobBatch(kind, tuple(nodes)) for kind, nodes in together.items()]
    order = {start.node.name: place for place, start in enumerate(starts)}
    return sorted(found, key=lambda group: min(order.get(node.name, len(order)) for node in group.nodes))


def fit_parallelism(
    limit: int, found: Sequence[JobBatch], units: Sequence[StageJob], exclusive_claims: Callable[[str], Collection[str]]
) -> list[JobBatch]:
    """The first of ``found`` that fit beside the Jobs that run.

    ``alone``: a kind → what its Jobs use and only one Job at a time may.
    """
    running = [unit for unit in units if unit.phase in (Phase.RUNNING, Phase.CONFIGMAP_MISSING) and not unit.ended]
    used = {each for unit in running for each in exclusive_claims(unit.kind)}
    fitting: list[JobBatch] = []
    for group in found:
        if len(running) + len(fitting) < limit and used.isdisjoint(exclusive_claims(group.kind)):
            fitting.append(group)
            used.update(exclusive_claims(group.kind))
    return fitting


def stopped(stops: Sequence[StopStage], units: Sequence[StageJob]) -> list[StageJob]:
    """Running units of which no stage is wanted any more; one that is half wanted runs to its end."""
    gone = {stop.key for stop in stops}
    return [unit for unit in units if unit.phase is Phase.RUNNING and not unit.stopping and _left(unit) <= gone]


def wanted(unit: StageJob, graph: Graph) -> bool:
    """Whether every stage of the unit, with its digest, is one of the graph's."""
    return bool(unit.keys) and all(stage in graph and graph[stage].digest == digest for stage, digest in unit.keys)


def used(unit: StageJob, graph: Graph) -> bool:
    """Whether any stage of the unit is one of the graph's, or may turn out to be once its digest is known."""
    return any(stage in graph and graph[stage].digest in (digest, None) for stage, digest in unit.keys)


def _left(unit: StageJob) -> set[ArtifactKey]:
    return set(unit.keys) - unit.manifests.keys()
