"""The memory that a training stage takes on a device: the micro-batch, and whether weights are divided. Pure.

By the rules of the trainer, which measures where this estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from multitask_api.bundle import GenerationSettings
from multitask_api.estimates.fitting import CPU_TEXT_TOKENS, CPU_TOKENS, PACK_WIDTH, Fitted, fit
from multitask_api.estimates.memory import MemoryModel, MicroBatchShape
from multitask_api.estimates.packed_rows import mask_reason
from multitask_api.estimates.shape import ModelShape
from multitask_api.estimates.sharding import divides_weights
from multitask_api.resource import MultiTaskModelSpec, TaskSpec
from multitask_api.resource.tuning import Tuning
from multitask_api.stages import Graph, Node

_CHARACTERS = 3
"""Of a token, where only the text is known."""


@dataclass(frozen=True)
class Device:
    """What a stage trains on: its memory in bytes, and its peak operations a second (None: not known) in bf16, or in
    fp32 where it has no bf16."""

    name: str
    memory: int
    is_gpu: bool
    flops: float | None = None
    gpus: int = 1
    """GPUs that one training has."""
    has_bf16: bool = True
    is_too_old: bool = False
    """PyTorch has no kernels for it."""

    def computes_in_bf16(self, spec: MultiTaskModelSpec) -> bool:
        """Whether training on it does; else in fp32, or TF32 where it has that."""
        return self.is_gpu and self.has_bf16 and spec.training.precision == "bf16"


@dataclass(frozen=True)
class Training:
    """What one stage trains."""

    tuning: Tuning
    tasks: Sequence[TaskSpec]
    text: bool = False
    """Pre-training: every token is a target."""
    one_gpu: bool = False
    """It has one GPU, whatever others have."""
    runs: int = 1
    """Runs like it that one process trains on one base, if they fit together."""

    def gpus_on(self, device: Device) -> int:
        """GPUs that it has."""
        return 1 if self.one_gpu else device.gpus


def training_of(node: Node, graph: Graph, spec: MultiTaskModelSpec) -> Training:
    """What ``node`` trains, which is a stage of training."""
    if node.kind == "base":
        return Training(Tuning(method="Full"), spec.tasks, text=True)
    if node.kind == "baseline":
        return Training(spec.tuning.for_baseline(), spec.tasks)
    names = _tasks(node, graph)
    group = training_of_group(spec, [task for task in spec.tasks if task.name in names])
    return replace(group, one_gpu=node.kind == "check")


def training_of_group(spec: MultiTaskModelSpec, tasks: Sequence[TaskSpec]) -> Training:
    """A group's; where its rank cannot be divided among experts, it is a LoRA of the same rank."""
    if not tasks or spec.tuning.rank_problem(len(tasks)) is not None:
        return Training(spec.tuning.for_baseline(), tasks)
    return Training(spec.tuning.for_group([task.name for task in tasks]), tasks)


def can_divide_weights(spec: MultiTaskModelSpec, *, trains_all: bool) -> bool:
    """Whether several GPUs can: neither the 8-bit moments of all weights nor a base in 4 bits can be divided."""
    return spec.training.optimizer is None if trains_all else spec.tuning.quantization is None


def fitted(spec: MultiTaskModelSpec, training: Training, shape: ModelShape, device: Device) -> Fitted:
    """The micro-batch as training would choose it, with rows of ``training.maxLength``.

    Of one run if the runs of a process do not fit together: then they train one after the other.
    """
    found = _fitted(spec, training, shape, device)
    return found if found.fits or training.runs == 1 else _fitted(spec, replace(training, runs=1), shape, device)


def _fitted(spec: MultiTaskModelSpec, training: Training, shape: ModelShape, device: Device) -> Fitted:
    settings = spec.training
    gpus = training.gpus_on(device)
    mixed = device.computes_in_bf16(spec)
    packed = device.is_gpu and not training.text
    has_mask = packed and _mask_reason(shape, settings.max_length, mixed=mixed) is not None
    sequence = max(PACK_WIDTH, settings.max_length) if packed else settings.max_length
    targets = training.runs * settings.batch_rows * max((_answer_tokens(task) for task in training.tasks), default=1)

    def batch_of(sequences: int) -> MicroBatchShape:
        tokens = sequences * sequence
        return MicroBatchShape(tokens, sequence, tokens if training.text else min(tokens, targets), has_mask)

    checkpointing = settings.gradient_checkpointing or "Auto"
    if not device.is_gpu and checkpointing == "Auto":
        checkpointing = "Never"  # `Auto` is about the memory of a GPU
    rows = -(-settings.batch_rows // gpus)
    step = training.runs * -(-rows // (sequence // settings.max_length)) * sequence
    most = step if device.is_gpu else CPU_TEXT_TOKENS if training.text else CPU_TOKENS
    tasks = max(1, len(training.tasks))
    model = MemoryModel(shape, training.tuning, mixed, tasks=tasks, optimizer=settings.optimizer, runs=training.runs)
    can_divide = can_divide_weights(spec, trains_all=model.trains_all)
    if can_divide and divides_weights(settings.sharding, gpus, model.of(batch_of(1)).state, device.memory):
        model = replace(model, gpus=gpus)
    return fit(model, device.memory, setting=checkpointing, most_tokens=most, batch_of=batch_of)


def _mask_reason(shape: ModelShape, max_length: int, *, mixed: bool) -> str | None:
    """Why packed rows need a mask; None if training is expected to have varlen attention."""
    return mask_reason(
        max_length=max_length,
        in_full_precision=not mixed,
        window=shape.window,
        has_attention_dropout=shape.attention_dropout is not None,
    )


def _tasks(node: Node, graph: Graph) -> Sequence[str]:
    """The tasks of a stage of a group, or of a check of one task."""
    name = node.name.split("/", 1)[1]
    group = name if name in graph.groups else graph.group_of.get(name, "")
    return graph.groups.get(group, ())


def _answer_tokens(task: TaskSpec) -> int:
    """About the most tokens of an answer, with the end."""
    if task.type == "Generation":
        return (task.generation or GenerationSettings()).max_new_tokens + 1
    return 2 + max((len(label) for label in task.labels), default=0) // _CHARACTERS
