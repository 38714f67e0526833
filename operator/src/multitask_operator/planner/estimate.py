"""What the training that is left takes: at most so many steps, rows and tokens; and about how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.parameters import BaseParameters, CheckParameters, TrainParameters
from multitask_api.stage_io.results import BaseResult, TrainResult
from multitask_api.stages import Graph, Node, NodeState
from multitask_operator.planner.results import training_result_of

#: Floating-point operations a weight and token: 2 forward, 2 back to the inputs, 2 for the gradient of the weight,
#: which a frozen weight does not need.
_FLOPS_FULL, _FLOPS_FROZEN = 6, 4


@dataclass(frozen=True)
class Speed:
    """Training tokens a second of one process, and where the figure comes from, in words."""

    tokens_per_second: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """The training that is left, if no stage stops early.

    ``tokens`` are ``rows`` times the mean length of the rows seen so far, or times ``training.maxLength`` before any
    were seen. ``speed``: None if nothing tells it.
    """

    steps: int
    rows: int
    tokens: int
    speed: Speed | None

    @property
    def seconds(self) -> float | None:
        """Seconds of one process; None without a speed."""
        return self.tokens / self.speed.tokens_per_second if self.speed else None


def estimate(
    model: MultiTaskModel,
    graph: Graph,
    *,
    host: str | None = None,
    otherwise: Callable[[], Speed | None] = lambda: None,
) -> Estimate:
    """What is left of ``graph``, at the median speed that its stages have measured on ``host`` (None: on any).

    ``otherwise`` is asked for the speed while none is measured.
    """
    trained = _trained(graph, None)
    batch = model.spec.training.batch_rows
    lengths = [item.tokens / (item.steps * batch) for item in trained if item.steps and item.tokens]
    length = median(lengths) if lengths else model.spec.training.max_length
    steps = sum(
        _steps(node, model, graph) for node in graph.nodes if node.state in (NodeState.READY, NodeState.WAITING)
    )
    steps += _steps_of_unknown_groups(model, graph)
    speed = measured_speed(graph, host) or otherwise()
    return Estimate(steps, steps * batch, round(steps * batch * length), speed)


def measured_speed(graph: Graph, host: str | None) -> Speed | None:
    """The median speed of the stages that ran on ``host`` (None: on any)."""
    speeds = [item.tokens_per_second for item in _trained(graph, host) if item.tokens_per_second]
    return Speed(median(speeds), "measured") if speeds else None


def speed_from_flops(model: MultiTaskModel, parameters: int | None, flops_per_second: float) -> Speed | None:
    """A rough speed: 6 operations a weight and token (4 where the base is frozen), attention not counted."""
    if not parameters:
        return None
    operations = parameters * (_FLOPS_FULL if model.spec.tuning.method == "Full" else _FLOPS_FROZEN)
    source = f"rough, from {parameters / 1e6:,.1f} M weights and {flops_per_second / 1e9:,.0f} GFLOP/s"
    return Speed(flops_per_second / operations, source)


def _trained(graph: Graph, host: str | None) -> Sequence[TrainResult | BaseResult]:
    """The results of the stages that trained, of those that ran on ``host``."""
    results: list[TrainResult | BaseResult] = []
    for node in graph.nodes:
        if node.manifest is None or (host is not None and node.manifest.environment.get("host") != host):
            continue
        if (trained := training_result_of(node)) is not None:
            results.append(trained)
        elif node.kind == "base":
            results.append(BaseResult.model_validate(node.manifest.result))
    return results


def _steps(node: Node, model: MultiTaskModel, graph: Graph) -> int:
    """The most steps a stage may take; a mixture without a budget of its own gets the sum of the baselines'."""
    if isinstance(node.parameters, TrainParameters):
        return node.parameters.max_steps
    if isinstance(node.parameters, CheckParameters):
        return 2 * node.parameters.max_steps  # the second run has fewer
    if isinstance(node.parameters, BaseParameters):
        return node.parameters.pretraining.max_steps if node.parameters.pretraining else 0
    stages = model.spec.stages
    if stages.total_steps is not None and node.kind in ("high-resource", "mixture"):
        return -(-stages.total_steps // len(graph.groups)) if node.kind == "mixture" else 0
    if node.kind == "baseline":
        return stages.baseline.max_steps
    if node.kind == "high-resource":
        return stages.high_resource.max_steps if stages.high_resource.enabled else 0
    if node.kind == "mixture":
        group = node.name.split("/", 1)[1]
        return stages.mixture.max_steps or stages.baseline.max_steps * len(graph.groups[group])
    return 0


def _steps_of_unknown_groups(model: MultiTaskModel, graph: Graph) -> int:
    """The most steps of stages 2 and 3 while the groups are not known: of as many groups as there may be."""
    if not graph.open_kinds:
        return 0
    stages, tasks = model.spec.stages, len(model.spec.tasks)
    if stages.total_steps is not None:
        return stages.total_steps
    most = min(tasks, model.spec.filtering.max_groups or tasks)
    mixtures = most * stages.mixture.max_steps if stages.mixture.max_steps else tasks * stages.baseline.max_steps
    return mixtures + (most * stages.high_resource.max_steps if stages.high_resource.enabled else 0)
