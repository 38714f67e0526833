"""What a study will run, before anything runs: which stages are cached, which are shared, what it costs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from multitask_api.resource import MultiTaskModel
from multitask_api.stages import Graph, Node, NodeState
from multitask_api.stages.digests import digest
from multitask_api.types import Record
from multitask_operator.planner.estimate import Estimate, estimate, measured_speeds
from multitask_operator.planner.stage_costs import Speed, StageCost
from multitask_operator.study.graphs import StudyGraphs, Target

Identity = tuple[str, str]
"""(stage name, digest); of a stage whose digest is not known yet, a digest of what it will be made from."""


@dataclass(frozen=True)
class StageCount:
    """The stages of one kind: ``uses`` over all runs, ``results``: different ones, and ``cached`` of these."""

    kind: str
    uses: int
    results: int
    cached: int

    @property
    def will_run(self) -> int:
        """Results that are not there yet, at most."""
        return self.results - self.cached


@dataclass(frozen=True)
class ArmCount:
    """The different results of one arm, over its seeds; ``shared``: of them, those that other arms use too."""

    arm: str
    results: int
    cached: int
    shared: int


def stage_counts(targets: Sequence[Target]) -> tuple[StageCount, ...]:
    """By kind, in the order in which kinds run."""
    uses: dict[str, list[Identity]] = {}
    done: set[Identity] = set()
    for target in targets:
        for node in _wanted(target.graph):
            identity = identity_of(node, target.model)
            uses.setdefault(node.kind, []).append(identity)
            done |= {identity} if node.state is NodeState.DONE else set()
    return tuple(StageCount(kind, len(all_), len(set(all_)), len(set(all_) & done)) for kind, all_ in uses.items())


def arm_counts(targets: Sequence[Target]) -> tuple[ArmCount, ...]:
    """Every arm, in order."""
    identities: dict[str, set[Identity]] = {}
    done: set[Identity] = set()
    for target in targets:
        if target.run is None:
            continue
        for node in _wanted(target.graph):
            identity = identity_of(node, target.model)
            identities.setdefault(target.run.arm.name, set()).add(identity)
            done |= {identity} if node.state is NodeState.DONE else set()
    counts = []
    for arm, own in identities.items():
        others = set[Identity]().union(*(found for name, found in identities.items() if name != arm))
        counts.append(ArmCount(arm, len(own), len(own & done), len(own & others)))
    return tuple(counts)


def cost_of(graphs: StudyGraphs, host: str | None, otherwise: Callable[[MultiTaskModel], Speed | None]) -> Estimate:
    """The training of all runs that is left, at most, each shared stage counted once.

    Each run at the speed that was measured on ``host`` (None: on any) with its tuning method, else at what
    ``otherwise`` knows of its model.
    """
    speeds: dict[str, Speed | None] = {**measured_speeds(graphs.done_nodes().values(), host)}
    counted: set[Identity] = set()
    rows, stages, lengths = 0, list[StageCost](), dict[str, None]()
    for target in graphs.of_runs:
        method = target.model.spec.tuning.method
        if method not in speeds:
            speeds[method] = otherwise(target.model)
        graph = replace(target.graph, nodes=tuple(_not_counted(target, counted)))
        cost = estimate(
            target.model,
            graph,
            measured=False,
            otherwise=partial(speeds.get, method),
            samples=target.resolved.rows,
        )
        rows += cost.rows
        if cost.steps:
            lengths[cost.lengths] = None
        stages += cost.stages
    used = {speeds[target.model.spec.tuning.method] for target in graphs.of_runs}
    speed = used.pop() if len(used) == 1 else None
    return Estimate(rows, tuple(stages), speed, lengths="; in some runs ".join(lengths))


def identity_of(node: Node, model: MultiTaskModel) -> Identity:
    """A stage that two runs share has one identity. Before its digest is known, some of what they share may show as
    two."""
    return node.name, node.digest or digest([_json(item) for item in _made_from(node.kind, model)])


def _not_counted(target: Target, counted: set[Identity]) -> Iterator[Node]:
    """The nodes that are done, and those that are left and not in ``counted`` yet, where they are put."""
    for node in target.graph.nodes:
        identity = identity_of(node, target.model)
        if node.state in (NodeState.DONE, NodeState.SKIPPED) or identity not in counted:
            yield node
        counted.add(identity)


def _wanted(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if node.state is not NodeState.SKIPPED)


def _made_from(kind: str, model: MultiTaskModel) -> Sequence[Record | None]:
    """The parts of a spec that the result of a stage of ``kind`` follows from."""
    spec = model.spec
    if kind == "prepare":
        return ()
    base = (spec.pretraining, spec.training if spec.pretraining is not None else None)
    if kind == "base":
        return base
    single = (*base, spec.training, spec.tuning.for_baseline())
    if kind == "baseline":
        return single
    if kind in ("gradients", "affinity"):
        return (*single, spec.filtering)
    if kind == "filter":
        stages = spec.stages
        without_seeds = {"seed": None, "min_steps": None}
        return (
            *single,
            spec.filtering,
            stages.high_resource.model_copy(update=without_seeds),
            stages.mixture.model_copy(update=without_seeds),
        )
    return (spec,)


def _json(item: Record | None) -> object:
    return None if item is None else item.to_json()
