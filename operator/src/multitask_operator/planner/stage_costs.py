"""What each training stage takes: steps, tokens, memory and time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multitask_api.bundle import GenerationSettings
from multitask_api.estimates.fitting import CPU_TEXT_TOKENS, CPU_TOKENS, PACK_WIDTH, Fitted, fit
from multitask_api.estimates.flops import training_flops
from multitask_api.estimates.memory import MemoryModel, MicroBatchShape
from multitask_api.estimates.shape import ModelShape
from multitask_api.resource import MultiTaskModel, TaskSpec
from multitask_api.resource.tuning import Tuning
from multitask_api.stages import Graph, Node, NodeState
from multitask_operator.planner.steps import steps_of, steps_of_unknown_groups

UTILISATION = 0.35
"""Of a GPU's peak operations a second, which training on it is assumed to reach where nothing was measured."""
_DIVIDED = 0.75
"""Part of a GPU's memory that training may take of it with divided weights: layers are gathered beside its part."""
_CHARACTERS = 3
"""Of a token, where only the text is known."""


@dataclass(frozen=True)
class Speed:
    """Training tokens a second of one process, and where the figure comes from, in words."""

    tokens_per_second: float
    source: str


@dataclass(frozen=True)
class Device:
    """What a stage trains on: its memory in bytes, and its peak operations a second (None: not known)."""

    name: str
    memory: int
    is_gpu: bool
    flops: float | None = None
    gpus: int = 1
    """GPUs that one training has."""


@dataclass(frozen=True)
class StageCost:
    """``stages`` stages of one kind that take the same memory. ``steps`` and ``tokens`` are of all, at the most.

    ``fitted``: None if the base's shape or the device is not known.
    """

    name: str
    stages: int
    steps: int
    tokens: int
    fitted: Fitted | None
    speed: Speed | None
    is_divided: bool = False
    """What one GPU cannot hold fits into those of the training, which divide the weights (``training.sharding``)."""

    @property
    def seconds(self) -> float | None:
        """Seconds of all, one after the other; None without a speed."""
        return self.tokens / self.speed.tokens_per_second if self.speed else None


@dataclass(frozen=True)
class _Training:
    """Stages that train the same weights."""

    name: str
    stages: int
    steps: int
    tuning: Tuning
    tasks: Sequence[TaskSpec]
    text: bool = False
    """Pre-training: every token is a target."""


def stage_costs(
    model: MultiTaskModel,
    graph: Graph,
    *,
    length: float,
    shape: ModelShape | None,
    device: Device | None,
    speed: Speed | None,
) -> tuple[StageCost, ...]:
    """The training stages that are left; the baselines together. ``length``: the mean tokens of a row."""
    costs = []
    for training in _left(model, graph):
        fitted = _fitted(model, training, shape, device) if shape and device else None
        own = speed or (_speed(model, training, shape, device, fitted) if shape and device and fitted else None)
        tokens = round(training.steps * model.spec.training.batch_rows * length)
        is_divided = _is_divided(model, fitted, device)
        costs.append(StageCost(training.name, training.stages, training.steps, tokens, fitted, own, is_divided))
    return tuple(costs)


def _left(model: MultiTaskModel, graph: Graph) -> Iterator[_Training]:
    """What is still to be trained, in the order of the graph."""
    tuning, every = model.spec.tuning, {task.name: task for task in model.spec.tasks}
    nodes = [node for node in graph.nodes if node.state in (NodeState.READY, NodeState.WAITING)]
    baselines = [node for node in nodes if node.kind == "baseline"]
    for node in nodes:
        steps = steps_of(node, model, graph)
        if not steps or node in baselines[1:]:
            continue
        if node.kind == "base":
            yield _Training("base", 1, steps, Tuning(method="Full"), tuple(every.values()), text=True)
        elif node.kind == "baseline":
            steps = sum(steps_of(each, model, graph) for each in baselines)
            yield _Training("baseline", len(baselines), steps, tuning.for_baseline(), tuple(every.values()))
        else:
            tasks = [every[name] for name in _tasks(node, graph) if name in every]
            yield _Training(node.name, 1, steps, _of_group(tuning, tasks), tasks)
    unknown = steps_of_unknown_groups(model, graph)
    if unknown:
        name = "high-resource and mixture, of groups that are not known yet"
        yield _Training(name, 1, unknown, _of_group(tuning, tuple(every.values())), tuple(every.values()))


def _tasks(node: Node, graph: Graph) -> Sequence[str]:
    """The tasks of a stage of a group, or of a check of one task."""
    name = node.name.split("/", 1)[1]
    group = name if name in graph.groups else graph.group_of.get(name, "")
    return graph.groups.get(group, ())


def _of_group(tuning: Tuning, tasks: Sequence[TaskSpec]) -> Tuning:
    """The settings of a group; where its rank cannot be divided among experts, a LoRA of the same rank."""
    if not tasks or tuning.rank_problem(len(tasks)) is not None:
        return tuning.for_baseline()
    return tuning.for_group([task.name for task in tasks])


def _fitted(model: MultiTaskModel, training: _Training, shape: ModelShape, device: Device) -> Fitted:
    """The micro-batch as training would choose it, with rows of ``training.maxLength``."""
    settings = model.spec.training
    packed = device.is_gpu and not training.text
    sequence = max(PACK_WIDTH, settings.max_length) if packed else settings.max_length
    targets = settings.batch_rows * max((_answer_tokens(task) for task in training.tasks), default=1)

    def batch_of(sequences: int) -> MicroBatchShape:
        tokens = sequences * sequence
        return MicroBatchShape(tokens, sequence, tokens if training.text else min(tokens, targets), packed)

    mixed = device.is_gpu and settings.precision == "bf16"
    checkpointing = settings.gradient_checkpointing or "Auto"
    if not device.is_gpu and checkpointing == "Auto":
        checkpointing = "Never"  # `Auto` is about the memory of a GPU
    rows = -(-settings.batch_rows // (sequence // settings.max_length))
    most = rows * sequence if device.is_gpu else CPU_TEXT_TOKENS if training.text else CPU_TOKENS
    return fit(
        MemoryModel(shape, training.tuning, mixed, tasks=max(1, len(training.tasks))),
        device.memory,
        setting=checkpointing,
        most_tokens=most,
        batch_of=batch_of,
    )


def _is_divided(model: MultiTaskModel, fitted: Fitted | None, device: Device | None) -> bool:
    """See `StageCost.is_divided`."""
    if fitted is None or device is None or fitted.fits or device.gpus == 1 or model.spec.training.sharding == "Never":
        return False
    others = fitted.memory.state * (1 - 1 / device.gpus)
    return fitted.memory.total - others <= _DIVIDED * device.memory


def _answer_tokens(task: TaskSpec) -> int:
    """About the most tokens of an answer, with the end."""
    if task.type == "Generation":
        return (task.generation or GenerationSettings()).max_new_tokens + 1
    return 2 + max((len(label) for label in task.labels), default=0) // _CHARACTERS


def _speed(
    model: MultiTaskModel, training: _Training, shape: ModelShape, device: Device, fitted: Fitted
) -> Speed | None:
    if device.flops is None:
        return None
    each = training_flops(
        shape,
        trains_all=training.tuning.method == "Full",
        checkpointing=fitted.checkpointing,
        sequence=model.spec.training.max_length,
    )
    count = f"{device.gpus} × " if device.gpus > 1 else ""
    source = f"from FLOPs, at {UTILISATION:.0%} of the {device.flops / 1e12:,.0f} TFLOP/s of {count}{device.name}"
    return Speed(UTILISATION * device.flops * device.gpus / each, source)
