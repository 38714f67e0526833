"""The stage graphs of a study's runs, from what is in storage: all of them, or up to the baselines at first. Pure.

Runs share storage, so equal stages are one. How many steps a run has may follow from the baselines of the first arm:
until these are done, the graph of every run ends before the filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import Manifest, Resolved
from multitask_api.stage_io.results import FilterResult
from multitask_api.stages import ArtifactKey, Graph, Node, NodeState, build
from multitask_api.stages.budgets import baseline_steps
from multitask_api.stages.versions import VERSIONS
from multitask_operator.planner import training_result_of
from multitask_operator.study.arms import Run, at_equal_cost

Manifests = Mapping[ArtifactKey, Manifest]

_SHARED = frozenset({"prepare", "base", "baseline", "gradients", "affinity"})
"""What stages 2 and 3 begin with: the seed of a run does not change it."""
_COMPARED = _SHARED | {"filter", "high-resource", "mixture", "bundle", "evaluate"}
"""What a study runs: nothing of it is exported or served."""


@dataclass(frozen=True)
class Target:
    """A graph to run: of a run, or of the first arm as it is without a study, whose filter says how long runs are."""

    model: MultiTaskModel
    resolved: Resolved
    graph: Graph
    run: Run | None = None


@dataclass(frozen=True)
class StudyGraphs:
    """All targets. ``total_steps``: of stages 2 and 3 of each run; None while they are not known."""

    targets: tuple[Target, ...]
    total_steps: int | None

    @property
    def of_runs(self) -> tuple[Target, ...]:
        """The targets of the runs, in their order."""
        return tuple(target for target in self.targets if target.run is not None)

    def done_nodes(self) -> dict[ArtifactKey, Node]:
        """The results in storage, each once, with a node that has it."""
        nodes = [node for target in self.targets for node in target.graph.nodes if node.state is NodeState.DONE]
        return {(node.name, node.digest): node for node in nodes if node.digest is not None}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return self.total_steps is not None and all(target.graph.finished for target in self.targets)


def study_graphs(
    runs: Sequence[tuple[Run, Resolved]], total_steps: int | None, manifests: Manifests, *, preview: bool = False
) -> StudyGraphs:
    """The graphs of ``runs``, each with its resolved data; the first is of the reference arm.

    ``total_steps``: as the study or the model gives them; None: what the first arm has by default. ``preview``: with
    all stages, also while the steps are not known.
    """
    targets: list[Target] = []
    if total_steps is None:
        first, resolved = runs[0]
        model = at_equal_cost(first.arm.model, first.seed, None)
        graph = _graph(model, resolved, manifests, _SHARED | {"filter"})
        targets.append(Target(model, resolved, graph))
        total_steps = default_steps(graph, model)
    kinds = _SHARED if total_steps is None and not preview else _COMPARED
    for run, resolved in runs:
        model = run.model(total_steps)
        targets.append(Target(model, resolved, _graph(model, resolved, manifests, kinds), run))
    return StudyGraphs(tuple(targets), total_steps)


def default_steps(graph: Graph, model: MultiTaskModel) -> int | None:
    """Steps of stages 2 and 3 over all groups, as the filter planned them; None before it is done.

    A group whose only task is answered by its baseline counts as `multitask_api.stages.budgets` says.
    """
    manifest = graph["filter"].manifest
    if manifest is None:
        return None
    steps = 0
    for plan in FilterResult.model_validate(manifest.result).groups:
        alone = steps_of_baseline(graph, plan.tasks[0]) if len(plan.tasks) == 1 else None
        if alone is not None:
            steps += alone
            continue
        limit = model.spec.stages.high_resource.max_steps
        stage2 = limit if plan.high_resource_steps is None else plan.high_resource_steps
        steps += plan.mixture_steps + (stage2 if plan.high_resource else 0)
    return steps


def steps_of_baseline(graph: Graph, task: str) -> int | None:
    """What a task counts for that its baseline answers; None without a trained baseline."""
    nodes = [node for node in graph.of_kind("baseline") if node.name.startswith(f"baseline/{task}/")]
    trained = [result for node in nodes if (result := training_result_of(node)) is not None]
    if not trained:
        return None
    chosen = sum(item.chosen_step for item in trained) / len(trained)
    return baseline_steps(chosen, sum(item.saturation_step for item in trained) / len(trained))


def keys_of(graph: Graph) -> frozenset[ArtifactKey]:
    """The results that a graph is made of, as far as they are known; stages that are skipped have none."""
    return frozenset((node.name, node.digest) for node in graph.nodes if node.digest is not None)


def done_keys(graph: Graph) -> frozenset[ArtifactKey]:
    """Those of them that are in storage."""
    done = (node for node in graph.nodes if node.state is NodeState.DONE)
    return frozenset((node.name, node.digest) for node in done if node.digest is not None)


def _graph(model: MultiTaskModel, resolved: Resolved, manifests: Manifests, kinds: frozenset[str]) -> Graph:
    graph = build(model.metadata.name, model.spec, resolved, manifests, VERSIONS, serve=False)
    return part_of_study(graph, model, kinds)


def part_of_study(graph: Graph, model: MultiTaskModel, kinds: frozenset[str] = _COMPARED) -> Graph:
    """What a study runs of the graph of a run; of it, the nodes of ``kinds``.

    Without the baselines that are trained to answer a task that failed its declared one.
    """
    declared = tuple(f"baseline/{task.name}/" for task in model.spec.tasks if task.baseline is not None)
    nodes = (node for node in graph.nodes if node.kind in kinds)
    return replace(graph, nodes=tuple(node for node in nodes if not (declared and node.name.startswith(declared))))
