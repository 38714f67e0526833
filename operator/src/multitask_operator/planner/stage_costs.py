"""What each training stage takes: steps, tokens, memory and time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from multitask_api.estimates.fitting import Fitted
from multitask_api.estimates.flops import attention_flops, training_flops
from multitask_api.estimates.shape import ModelShape
from multitask_api.resource import MultiTaskModel
from multitask_api.stages import Graph, NodeState
from multitask_operator.planner.joint import BaselineWork
from multitask_operator.planner.stage_memory import Device, Training, fitted, training_of, training_of_group
from multitask_operator.planner.steps import steps_of, steps_of_unknown_groups

_TF32 = 0.5
"""Of the peak in bf16, on the tensor cores of all that have both."""
UTILISATION = 0.35
"""Of a GPU's peak operations a second, which training on it is assumed to reach where nothing was measured."""
LEAST_STEP = 0.02
"""Seconds that a step on a GPU is assumed to take however small the model: it starts thousands of kernels one by one.
Not measured."""


@dataclass(frozen=True)
class Speed:
    """Training tokens a second of one training, and where the figure comes from, in words."""

    tokens_per_second: float
    source: str


@dataclass(frozen=True)
class StageCost:
    """``stages`` stages of one kind that take the same memory. ``steps`` and ``tokens`` are of all, at the most.

    ``fitted``: None if the base's shape or the device is not known. ``gpus``: those of one of the stages. ``together``:
    the most of them that a process has, which ``fitted`` is of if they fit.
    """

    name: str
    stages: int
    steps: int
    tokens: int
    fitted: Fitted | None
    speed: Speed | None
    gpus: int = 1
    together: int = 1

    @property
    def seconds(self) -> float | None:
        """Seconds of all, one after the other; None without a speed."""
        return self.tokens / self.speed.tokens_per_second if self.speed else None

    @property
    def gpu_seconds(self) -> float | None:
        """Seconds of all GPUs; None without a speed."""
        return None if self.seconds is None else self.seconds * self.gpus


@dataclass(frozen=True)
class _Left:
    """Stages that are still to run and train the same weights."""

    name: str
    stages: int
    steps: int
    training: Training
    processes: int = 1
    """That train them, the largest one ``training.runs`` together."""


def stage_costs(
    model: MultiTaskModel,
    graph: Graph,
    *,
    length: Callable[[Training], float],
    shape: ModelShape | None,
    device: Device | None,
    speed: Speed | None,
    places: int = 0,
) -> tuple[StageCost, ...]:
    """The training stages that are left; the baselines together. ``length``: the mean tokens of a training's rows.

    ``places``: see `BaselineWork.of`; only on a GPU, and if each training has one, do they train together.
    """
    costs = []
    share = device is not None and device.is_gpu and device.gpus == 1
    for left in _left(model, graph, places if share else 0):
        fit = fitted(model.spec, left.training, shape, device) if shape and device else None
        gpus = left.training.gpus_on(device) if device else 1
        step = model.spec.training.batch_rows * length(left.training)
        pass_tokens = step * left.stages / left.processes if fit and fit.runs > 1 else step
        own = speed or (
            _speed(model, left.training, pass_tokens, shape, device, fit) if shape and device and fit else None
        )
        if fit and device and device.is_gpu and not fit.fits:
            own = None  # it takes no time: it does not run
        tokens = round(left.steps * step)
        costs.append(StageCost(left.name, left.stages, left.steps, tokens, fit, own, gpus, left.training.runs))
    return tuple(costs)


def _left(model: MultiTaskModel, graph: Graph, places: int) -> Iterator[_Left]:
    """What is still to be trained, in the order of the graph."""
    nodes = [node for node in graph.nodes if node.state in (NodeState.READY, NodeState.WAITING)]
    baselines = [node for node in nodes if node.kind == "baseline"]
    for node in nodes:
        steps = steps_of(node, model, graph)
        if not steps or node in baselines[1:]:
            continue
        training = training_of(node, graph, model.spec)
        if node.kind == "baseline":
            steps = sum(steps_of(each, model, graph) for each in baselines)
            sizes = BaselineWork.of(model.spec, graph, places).processes
            together = replace(training, runs=max(sizes))
            yield _Left("baseline", len(baselines), steps, together, len(sizes))
        else:
            yield _Left(node.name, 1, steps, training)
    unknown = steps_of_unknown_groups(model, graph)
    if unknown:
        name = "high-resource and mixture, of groups that are not known yet"
        yield _Left(name, 1, unknown, training_of_group(model.spec, model.spec.tasks))


def _speed(
    model: MultiTaskModel, training: Training, step: float, shape: ModelShape, device: Device, fit: Fitted
) -> Speed | None:
    """Of steps of ``step`` tokens, by their operations."""
    if device.flops is None:
        return None
    each = training_flops(
        shape.linear_weights,
        attention=attention_flops(shape, model.spec.training.max_length),
        trains_all=training.tuning.method == "Full",
        checkpointing=fit.checkpointing,
    )
    is_tf32 = device.has_bf16 and not device.computes_in_bf16(model.spec)
    flops = device.flops * (_TF32 if is_tf32 else 1)
    gpus = training.gpus_on(device)
    count = f"{gpus} × " if gpus > 1 else ""
    peak = f"{flops / 1e12:,.0f} TFLOP/s{' in TF32' if is_tf32 else ''} of {count}{device.name}"
    source = f"from FLOPs, at {UTILISATION:.0%} of the {peak}, and at least {LEAST_STEP * 1000:.0f} ms a step"
    return Speed(step / max(LEAST_STEP, step * each / (UTILISATION * flops * gpus)), source)
