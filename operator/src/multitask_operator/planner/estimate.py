"""What the training that is left takes: at most so many steps, rows and tokens; and about how long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from multitask_api.estimates.shape import ModelShape
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import RowSample
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import BaseResult, TrainResult
from multitask_api.stages import Graph, Node
from multitask_operator.planner.results import training_result_of
from multitask_operator.planner.row_lengths import RowLengths
from multitask_operator.planner.stage_costs import Speed, StageCost, stage_costs
from multitask_operator.planner.stage_memory import Device


@dataclass(frozen=True)
class Estimate:
    """The training that is left, if no stage stops early, on ``device``.

    ``tokens`` are ``rows`` times their mean length, which ``lengths`` says the source of in words. ``speed``: of all
    stages; None if they differ, or nothing tells it.
    """

    rows: int
    stages: tuple[StageCost, ...]
    speed: Speed | None
    device: Device | None = None
    lengths: str = ""

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def tokens(self) -> int:
        """Of all stages."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether no stage is known not to fit into the memory of what it trains on."""
        return all(stage.fitted is None or stage.fitted.fits for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Seconds of one process after the other; None without a speed of every stage."""
        return self._sum([stage.seconds for stage in self.stages])

    @property
    def gpu_seconds(self) -> float | None:
        """Seconds of all GPUs; None without a speed of every stage."""
        return self._sum([stage.gpu_seconds for stage in self.stages])

    def _sum(self, seconds: Sequence[float | None]) -> float | None:
        known = [each for each in seconds if each is not None]
        return None if len(known) < len(seconds) or (not self.speed and not known) else sum(known)


def estimate(
    model: MultiTaskModel,
    graph: Graph,
    *,
    host: str | None = None,
    measured: bool = True,
    shape: ModelShape | None = None,
    device: Device | None = None,
    otherwise: Callable[[], Speed | None] = lambda: None,
    samples: Mapping[str, RowSample] | None = None,
    places: int = 0,
) -> Estimate:
    """What is left of ``graph``, at the median speed that its stages have measured on ``host`` (None: on any).

    ``otherwise`` is asked for the speed while none is, or if not ``measured``; if it knows none, the speed of each
    stage follows from ``shape``, that of the base model, and ``device``. ``samples``: task → what was read of its rows.
    ``places``: see `BaselineWork.of`.
    """
    lengths = RowLengths.of(model, graph, samples or {})
    speed = (_measured_speed(graph.nodes, host) if measured else None) or otherwise()
    stages = stage_costs(model, graph, length=lengths.mean, shape=shape, device=device, speed=speed, places=places)
    rows = sum(stage.steps for stage in stages) * model.spec.training.batch_rows
    return Estimate(rows, stages, speed, device, str(lengths))


def measured_speeds(nodes: Iterable[Node], host: str | None) -> dict[str, Speed]:
    """Tuning method → the median speed of the stages that trained by it on ``host`` (None: on any)."""
    by_method: dict[str, list[Node]] = {}
    for node in nodes:
        # Pre-training is of all weights.
        method = node.parameters.tuning.method if isinstance(node.parameters, TrainParameters) else "Full"
        by_method.setdefault(method, []).append(node)
    speeds = {method: _measured_speed(own, host) for method, own in by_method.items()}
    return {method: speed for method, speed in speeds.items() if speed is not None}


def _measured_speed(nodes: Iterable[Node], host: str | None) -> Speed | None:
    speeds = [item.tokens_per_second for item in _trained(nodes, host) if item.tokens_per_second]
    return Speed(median(speeds), "measured") if speeds else None


def _trained(nodes: Iterable[Node], host: str | None) -> Sequence[TrainResult | BaseResult]:
    """The results of the stages that trained, of those that ran on ``host``."""
    results: list[TrainResult | BaseResult] = []
    for node in nodes:
        if node.manifest is None or (host is not None and node.manifest.environment.get("host") != host):
            continue
        if (trained := training_result_of(node)) is not None:
            results.append(trained)
        elif node.kind == "base":
            results.append(BaseResult.model_validate(node.manifest.result))
    return results
